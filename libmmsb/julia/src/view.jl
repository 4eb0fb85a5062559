# Typed views: a page looked at in place, by code that runs again until nobody disturbed it.

"""
    PageView{T} <: AbstractVector{T}

The content of a page as elements of type `T`, in place, read-only. Only [`withview`](@ref) makes one. Each primitive
part of an element is one atomic load: whatever writers do meanwhile, looking is harmless, also after the page is gone
or the bus closed; but what is seen may be torn.
"""
struct PageView{T} <: AbstractVector{T}
    mapping::Mapping                        # holds the memory
    content::Ptr{UInt8}
    count::Int
end

Base.size(view::PageView) = (view.count,)
Base.IndexStyle(::Type{<:PageView}) = IndexLinear()

@inline function Base.getindex(view::PageView{T}, i::Int) where {T}
    # Always checked, also under `@inbounds`: `i` may come from bytes that are torn.
    1 <= i <= view.count || throw(BoundsError(view, i))
    mapping = view.mapping
    return GC.@preserve mapping load_shared(T, view.content + (i - 1) * sizeof(T))
end

"What `f` threw; believed only if nobody disturbed it."
struct Thrown
    error::Any
end

"""
    withview(f, page, T)

Calls `f(view)` with a [`PageView`](@ref) of the page in place, without a copy, and returns what `f` returned in a
call that no writer disturbed. For elements of a primitive type, or `isbits` structs whose fields are the schema's.

`f` may be called several times and may see torn data: then what it returned, or threw, is dropped, and it is called
again. So it should only compute: no side effects, no loop whose end depends on the data alone, nothing kept of the
view. Throws [`Stalled`](@ref) or [`Contended`](@ref) like any read.

    total = withview(sum, observer["tank/1"], Float64)
"""
function withview(f::F, page::ObservedPage, ::Type{T}) where {F,T}
    check_view(page, T)
    mapping = page.bus.mapping
    result, _ = undisturbed(page) do content, bytes
        view = PageView{T}(mapping, content, bytes ÷ sizeof(T))
        try
            f(view)
        catch error
            error isa InterruptException && rethrow()
            Thrown(error)
        end
    end
    result isa Thrown && throw(result.error)
    return result
end

function check_view(page::ObservedPage, ::Type{T}) where {T}
    isbitstype(T) && sizeof(T) > 0 || throw(ArgumentError("$T is no isbits type"))
    fieldcount(T) > 0 && schema(page) !== nothing && return check_type(page, T)
    layout = schema(page)
    T === UInt8 || layout === nothing || !layout.record && ELEMENTS[layout.fields[1].element] === T ||
        throw(WrongSchema("$(label(page)) is $layout, no array of $T"))
    page.size % sizeof(T) == 0 ||
        throw(WrongSize("$(label(page)) has $(page.size) bytes, no whole number of $T"))
    return nothing
end
