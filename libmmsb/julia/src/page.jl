# What all pages can do, whichever face they are seen through. A face gives `copy_page!`, `sizeof` and `schema`.

"""
    AbstractPage

A page seen through one of the faces, or an [`Image`](@ref) of one. All of them have: `read(page)`, `read(page, T)`,
`read!(buffer, page)`, `page[:field]`, `page["bids[2]"]`, `value(page)`, `keys(page)`, `sizeof(page)`, `name(page)`,
`schema(page)`.
"""
abstract type AbstractPage end

"""
    Version

Which version of a page was read: `lsn` of the last delta in it, `epoch` (the number of deltas it has seen), and
`retries`, the attempts that a writer disturbed.
"""
struct Version
    lsn::UInt64
    epoch::UInt64
    retries::Int
end

"""
    name(page) -> String

Name of a page, `""` for one without.
"""
name(page::AbstractPage) = page.name

"""
    schema(page) -> Schema or nothing

The schema of a page as it was when the page was looked up.
"""
schema(page::AbstractPage) = page.schema

"""
    read(page) -> Vector{UInt8}

All bytes of a page, one version of it. Throws [`PageGone`](@ref) when it was deleted, [`Stalled`](@ref) or
[`Contended`](@ref) when no undisturbed copy could be had within the reader's patience.
"""
function Base.read(page::AbstractPage)
    bytes = Vector{UInt8}(undef, sizeof(page))
    read!(bytes, page)
    return bytes
end

"""
    read!(buffer, page) -> buffer
    read_version!(buffer, page) -> Version

Copies a page into an array of numbers, or of `isbits` structs, which must have exactly the bytes of the page.
Allocates nothing. The second form tells which version it was.
"""
function Base.read!(buffer::DenseArray, page::AbstractPage)
    read_version!(buffer, page)
    return buffer
end

function read_version!(buffer::DenseArray{T}, page::AbstractPage) where {T}
    isbitstype(T) && !bool_inside(T) || throw(ArgumentError("a page cannot be copied into elements of $T"))
    version = GC.@preserve buffer copy_page!(Ptr{UInt8}(pointer(buffer)), page, 0, sizeof(T) * length(buffer), true)
    return version
end

# Any byte may be in a page, and only 0 and 1 may be in a Bool.
@generated bool_inside(::Type{T}) where {T} = hasbool(T)

"""
    read(page, T) -> T

The page as an `isbits` value, one version of it. With a schema, the fields of `T` must be the schema's: names,
offsets and types (or, for an array schema, its elements in order). Without, `T` must have exactly the page's size.
Allocates nothing.
"""
function Base.read(page::AbstractPage, ::Type{T}) where {T}
    check_type(page, T)
    # Bytes behind the last field of `T` are nobody's, and the page may not have them.
    bytes = min(sizeof(T), sizeof(page))
    value = Ref{T}()
    GC.@preserve value begin
        p = Ptr{UInt8}(pointer_from_objref(value))
        copy_page!(p, page, 0, bytes, false)
        load_private(T, p)
    end
end

Base.read(page::AbstractPage, ::Type{Vector{T}}) where {T} = read_elements(page, T)

function read_elements(page::AbstractPage, ::Type{T}) where {T}
    isbitstype(T) && sizeof(T) > 0 || throw(ArgumentError("$T is no isbits type"))
    count, rest = divrem(sizeof(page), sizeof(T))
    rest == 0 || throw(WrongSize("$(label(page)) has $(sizeof(page)) bytes, no whole number of $T"))
    layout = schema(page)
    layout === nothing || layout.record || ELEMENTS[layout.fields[1].element] === T ||
        throw(WrongSchema("$(label(page)) is $layout, no array of $T"))
    T === Bool && return Bool[byte != 0 for byte in read(page)]
    return read!(Vector{T}(undef, count), page)
end

"Checks `T` against page and schema; once, unless it is another type than the last time."
@inline function check_type(page::AbstractPage, ::Type{T}) where {T}
    page.checked === T || check_type_slow(page, T)
    return nothing
end

@noinline function check_type_slow(page::AbstractPage, T)
    isbitstype(T) && sizeof(T) > 0 || throw(ArgumentError("$T is no isbits type"))
    layout = schema(page)
    if layout === nothing
        sizeof(T) == sizeof(page) ||
            throw(WrongSize("$(label(page)) has $(sizeof(page)) bytes, and $T has $(sizeof(T))"))
    else
        check_fields(T, layout)
        layout.bytes <= sizeof(page) ||
            throw(WrongSize("$(label(page)) has $(sizeof(page)) bytes, its schema describes $(layout.bytes)"))
    end
    page.checked = T
    return nothing
end

the_schema(page::AbstractPage) =
    something(schema(page), Some(nothing)) === nothing ? throw(NoSchema("$(label(page)) has no schema")) : schema(page)

function read_field(page::AbstractPage, field::Field)
    field.offset + sizeof(field) <= sizeof(page) ||
        throw(WrongSize("field $(field.name) ends behind the $(sizeof(page)) bytes of $(label(page))"))
    bytes = Vector{UInt8}(undef, sizeof(field))
    GC.@preserve bytes copy_page!(pointer(bytes), page, field.offset, length(bytes), false)
    return decode_field(field, bytes, 0)
end

"""
    page[:field]
    page["bids[2]"]

One field of a page by its schema: a number, a `Bool`, a `Vector` of them, or a `String` for text. A path in a string
is in the bus's own notation, as on the command line and in C, so `bids[0]` is the first element; `page[:bids][1]` is
the same one, the Julia way.
"""
Base.getindex(page::AbstractPage, field::Symbol) = read_field(page, find_field(the_schema(page), String(field)))
Base.getindex(page::AbstractPage, path::AbstractString) = read_field(page, select_field(the_schema(page), path))

"""
    value(page)

What a page holds, by its schema: a `NamedTuple` of a record's fields, a `Vector` of an array's elements, a `String`
for text. Without a schema, its bytes. One version of the page.
"""
value(page::AbstractPage) = schema(page) === nothing ? read(page) : decode_value(schema(page), read(page))

"""
    keys(page)

Names of the fields that `page[:field]` knows; none without a record schema.
"""
Base.keys(page::AbstractPage) =
    schema(page) === nothing ? Symbol[] : [Symbol(field.name) for field in schema(page).fields if schema(page).record]

Base.haskey(page::AbstractPage, field::Symbol) = field in keys(page)

"What a message calls a page."
label(page::AbstractPage) = isempty(name(page)) ? "page $(page_number(page))" : "page $(name(page))"

function Base.show(io::IO, page::AbstractPage)
    print(io, nameof(typeof(page)), "(", repr(name(page)), ", ", sizeof(page), " bytes")
    schema(page) === nothing || print(io, ", ", schema(page))
    print(io, ")")
end
