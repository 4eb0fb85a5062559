# update_page, for pages by themselves and within batches and transactions.

"""
    update_page(page, value) -> LSN
    update_page(page, bytes; offset) -> LSN
    update_page(page, (price = 1.5, qty = 3)) -> LSN
    update_page(page, [0 => bytes, 16 => bytes]) -> LSN
    update_page(bus, name, ...) -> LSN

Changes a page by one delta, which readers see as a whole or not at all, and returns its place in the order.

* `value`: an `isbits` value, checked against size and schema like `read(page, T)`; or an array that has exactly the
  bytes of the page.
* with `offset` (from 0): only these bytes of it.
* a `NamedTuple`: these fields, by the schema. Pairs: these ranges, each at its offset.

`cause` (with `offset` or a whole value) names the LSN of the delta that led to this one. A small value costs well
under a microsecond and allocates nothing. Throws [`TimedOut`](@ref), [`Backpressure`](@ref), [`NoSupervisor`](@ref):
nothing was changed, the same call may be made again; and with `durability = :synced` [`NotDurable`](@ref): it *was*
changed.
"""
function update_page end

# `page` may be a Page, or one of a batch or transaction: whatever has write_whole!, patch! and patch_many!.
abstract type GroupPage <: AbstractPage end
const Writable = Union{Page,GroupPage}

@inline function update_page(page::Writable, bytes::DenseArray{T}; offset::Union{Nothing,Integer} = nothing,
                             cause::Integer = 0) where {T}
    isbitstype(T) || throw(ArgumentError("a page cannot hold elements of $T"))
    len = sizeof(T) * length(bytes)
    if offset === nothing
        len == sizeof(page) || throw_wrong_size(page, 0, len, true, sizeof(page))
    else
        check_range(page, offset, len)
    end
    at = offset === nothing ? 0 : Int(offset)
    # Nothing preserved may be left by a `return` within: it would be let go of too early.
    return GC.@preserve bytes write_at!(page, at, Ptr{UInt8}(pointer(bytes)), len, UInt64(cause))
end

@inline write_at!(page::Writable, offset::Int, from::Ptr{UInt8}, len::Int, cause::UInt64) =
    len == sizeof(page) && cause == 0 ? write_whole!(page, from, len) : patch!(page, offset, from, len, cause)

@inline check_range(page, offset, len) =
    0 <= offset <= sizeof(page) - len || throw_wrong_size(page, Int(offset), len, false, sizeof(page))

@inline function update_page(page::Writable, value::T; cause::Integer = 0) where {T}
    check_type(page, T)
    # Padding behind the last field may be more than the page has.
    len = min(sizeof(T), sizeof(page))
    held = Ref(value)
    return GC.@preserve held write_at!(page, 0, Ptr{UInt8}(pointer_from_objref(held)), len, UInt64(cause))
end

function update_page(page::Writable, fields::NamedTuple)
    schema = the_schema(page)
    return update_page(page, [(field = find_field(schema, String(name)); field.offset => encode_field(field, value))
                              for (name, value) in pairs(fields)])
end

function update_page(page::Writable, ranges::DenseVector{<:Pair{<:Integer,<:DenseVector{UInt8}}})
    kept = [bytes for (_, bytes) in ranges]
    for (offset, bytes) in ranges
        check_range(page, offset, length(bytes))
    end
    return GC.@preserve kept patch_many!(page, CRange[CRange(offset, pointer(bytes), length(bytes)) for (offset,
        bytes) in ranges])
end

update_page(bus::Bus, name::AbstractString, value; options...) = update_page(bus[name], value; options...)

"The bytes that a field has when it holds `value`."
function encode_field(field::Field, value)
    if field.element == TEXT
        text = Vector{UInt8}(String(value))
        length(text) <= field.count ||
            throw(ArgumentError("field $(field.name) has room for $(field.count) bytes of text"))
        return append!(text, zeros(UInt8, field.count - length(text)))
    end
    T = ELEMENTS[field.element]
    if field.count == 1 && !(value isa AbstractArray)
        return Vector{UInt8}(reinterpret(UInt8, [convert(T, value)]))
    end
    length(value) == field.count ||
        throw(ArgumentError("field $(field.name) has $(field.count) elements, not $(length(value))"))
    return Vector{UInt8}(reinterpret(UInt8, T[convert(T, element) for element in value]))
end

"""
    page[:field] = value
    page["bids[2]"] = value

Changes one field, by one delta; the value is converted to the field's type (`InexactError` if it does not fit).
Elements in a path count from 0.
"""
Base.setindex!(page::Writable, value, field::Symbol) = set_field!(page, find_field(the_schema(page), String(field)),
    value)
Base.setindex!(page::Writable, value, path::AbstractString) = set_field!(page, select_field(the_schema(page), path),
    value)

function set_field!(page::Writable, field::Field, value)
    bytes = encode_field(field, value)
    check_range(page, field.offset, length(bytes))
    GC.@preserve bytes patch!(page, field.offset, pointer(bytes), length(bytes), UInt64(0))
    return page
end
