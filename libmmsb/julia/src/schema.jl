# Schemas: what the bytes of a page mean, decoded from their published encoding, and compared with Julia types.

const ELEMENTS = (UInt8, Int8, UInt16, Int16, UInt32, Int32, UInt64, Int64, Float32, Float64, Bool, Char)
const ELEMENT_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "char")
const TEXT = 12                             # `char`: UTF-8 text, a byte per element

element_size(element::Int) = element == TEXT ? 1 : sizeof(ELEMENTS[element])

"One field of a record: `count` elements at `offset`."
struct Field
    name::String
    offset::Int
    element::Int
    count::Int
end

Base.sizeof(field::Field) = element_size(field.element) * field.count

"""
    Schema

What the bytes of a page mean: an array of one element type (`isrecord(schema)` is false and the only field has no
name), or a record of named fields. Shown as the command line writes it: `f64[8]`, `quote{price:f64,qty:u32}`.
"""
struct Schema
    name::String
    bytes::Int
    record::Bool
    fields::Vector{Field}
    hash::UInt64
end

"Whether the schema is a record, not an array."
isrecord(schema::Schema) = schema.record

"FNV-1a, 64 bits."
function fnv1a(bytes)
    hash = 0xcbf2_9ce4_8422_2325
    for byte in bytes
        hash = (hash ⊻ byte) * 0x0000_0100_0000_01b3
    end
    return hash
end

little(::Type{T}, bytes::Vector{UInt8}, at::Int) where {T<:Unsigned} =
    foldr((byte, sum) -> sum << 8 | T(byte), view(bytes, at+1:at+sizeof(T)); init = zero(T))

bad_schema(why) = throw(Corrupt("a schema does not decode: $why"))

"""
Decodes a schema; `nothing` for versions that this package does not know. Nothing of it is believed before it is
checked: the bytes come from shared memory.
"""
function decode_schema(bytes::Vector{UInt8})
    length(bytes) >= 20 || bad_schema("it ends early")
    little(UInt32, bytes, 0) == 0x4843_534d || bad_schema("wrong magic")
    little(UInt16, bytes, 4) == 1 || return nothing
    kind = little(UInt16, bytes, 6)
    described = Int(little(UInt32, bytes, 8))
    described <= PAGE_BYTES_MAX || bad_schema("it describes $described bytes")
    count = Int(little(UInt32, bytes, 12))
    element = Int(little(UInt16, bytes, 16))
    name_len = Int(little(UInt16, bytes, 18))
    hash = fnv1a(bytes)
    if kind == 1
        1 <= element <= 12 || bad_schema("element type $element")
        name_len == 0 && length(bytes) == 20 || bad_schema("an array with a name")
        count * element_size(element) == described || bad_schema("$count elements in $described bytes")
        return Schema("", described, false, [Field("", 0, element, count)], hash)
    end
    kind == 2 || bad_schema("kind $kind")
    count <= 4096 && name_len <= 255 || bad_schema("$count fields")
    text(at, len) = at + len <= length(bytes) ? String(bytes[at+1:at+len]) : bad_schema("it ends early")
    name = text(20, name_len)
    at = 20 + name_len
    fields = Field[]
    for _ in 1:count
        at + 12 <= length(bytes) || bad_schema("it ends early")
        field_name_len = Int(little(UInt16, bytes, at + 10))
        1 <= field_name_len <= 255 || bad_schema("a field name of $field_name_len bytes")
        element = Int(little(UInt16, bytes, at + 8))
        1 <= element <= 12 || bad_schema("element type $element")
        field = Field(text(at + 12, field_name_len), Int(little(UInt32, bytes, at)), element,
                      Int(little(UInt32, bytes, at + 4)))
        field.offset + sizeof(field) <= described || bad_schema("field $(field.name) ends outside")
        push!(fields, field)
        at += 12 + field_name_len
    end
    at == length(bytes) || bad_schema("bytes behind its end")
    allunique(field.name for field in fields) || bad_schema("two fields of one name")
    ordered = sort(fields; by = field -> field.offset)
    for (a, b) in zip(ordered, Iterators.drop(ordered, 1))
        a.offset + sizeof(a) <= b.offset || bad_schema("fields $(a.name) and $(b.name) overlap")
    end
    return Schema(name, described, true, fields, hash)
end

shape_text(field::Field) = field.count == 1 ? ELEMENT_NAMES[field.element] :
    string(ELEMENT_NAMES[field.element], "[", field.count, "]")

function Base.show(io::IO, schema::Schema)
    schema.record || return print(io, ELEMENT_NAMES[schema.fields[1].element], "[", schema.fields[1].count, "]")
    print(io, schema.name, "{", join((string(f.name, ":", shape_text(f)) for f in schema.fields), ","), "}")
end

function find_field(schema::Schema, name::AbstractString)
    for field in schema.fields
        schema.record && field.name == name && return field
    end
    throw(NoSuchField("$schema has no field $name"))
end

"""
The field that a path in the bus's own notation names, the same as on the command line and in C: `price`, or `bids[2]`
for one element, counted from 0; `[2]` for an element of an array.
"""
function select_field(schema::Schema, path::AbstractString)
    found = match(r"^([^\[\]]*)(?:\[([0-9]{1,10})\])?$"s, path)
    found === nothing && throw(NoSuchField("$path is no path of a field"))
    name, index = found.captures
    field = !schema.record && isempty(name) ? schema.fields[1] : find_field(schema, name)
    index === nothing && return field
    i = parse(Int, index)
    i < field.count && field.element != TEXT || throw(NoSuchField("$schema has no field $path"))
    return Field(path, field.offset + i * element_size(field.element), field.element, 1)
end

"The value of a field whose bytes begin at `at` (from 0): a number or Bool, a `Vector` of them, or a `String`."
function decode_field(field::Field, bytes::Vector{UInt8}, at::Int)
    raw = bytes[at+1:at+sizeof(field)]
    field.element == TEXT && return String(raw[1:something(findlast(!iszero, raw), 0)])
    field.element == 11 && return field.count == 1 ? raw[1] != 0 : raw .!= 0
    values = collect(reinterpret(ELEMENTS[field.element], raw))
    return field.count == 1 ? values[1] : values
end

"Everything that the schema describes: a `NamedTuple` of a record's fields, the elements of an array."
function decode_value(schema::Schema, bytes::Vector{UInt8})
    length(bytes) >= schema.bytes ||
        throw(WrongSize("$schema describes more than the $(length(bytes)) bytes there are"))
    if schema.record
        names = Tuple(Symbol(field.name) for field in schema.fields)
        return NamedTuple{names}(Tuple(decode_field(field, bytes, field.offset) for field in schema.fields))
    end
    field = schema.fields[1]
    value = decode_field(field, bytes, 0)
    return field.count == 1 && field.element != TEXT ? [value] : value
end

"The primitive values in a type, with their offsets: what its bytes mean, whatever its fields are called."
function leaves(::Type{T}, at::Int = 0) where {T}
    fieldcount(T) == 0 && return sizeof(T) == 0 ? Tuple{Int,DataType}[] : [(at, T)]
    found = Tuple{Int,DataType}[]
    for i in 1:fieldcount(T)
        append!(found, leaves(fieldtype(T, i), at + Int(fieldoffset(T, i))))
    end
    return found
end

"What a field should be made of. Text is bytes."
function leaves(field::Field, at::Int = field.offset)
    T = field.element == TEXT ? UInt8 : ELEMENTS[field.element]
    return Tuple{Int,DataType}[(at + i * sizeof(T), T) for i in 0:field.count-1]
end

"Throws unless the bytes of a `T` mean what the schema says: names, offsets and types of all fields."
function check_fields(::Type{T}, schema::Schema) where {T}
    fits(a, b) = length(a) == length(b) && all(x == y for (x, y) in zip(a, b))
    if !schema.record
        fits(leaves(T), leaves(schema.fields[1])) || throw(WrongSchema("$T does not have the bytes of $schema"))
        return nothing
    end
    length(schema.fields) == fieldcount(T) ||
        throw(WrongSchema("$T has $(fieldcount(T)) fields, $schema has $(length(schema.fields))"))
    for field in schema.fields
        i = findfirst(==(Symbol(field.name)), fieldnames(T))
        i === nothing && throw(WrongSchema("$T has no field $(field.name), which $schema has"))
        at = Int(fieldoffset(T, i))
        at == field.offset ||
            throw(WrongSchema("field $(field.name) is at $at in $T, and at $(field.offset) in $schema"))
        fits(leaves(fieldtype(T, i), at), leaves(field)) ||
            throw(WrongSchema("field $(field.name) is $(fieldtype(T, i)) in $T, and $(shape_text(field)) in $schema"))
    end
    return nothing
end

hasbool(T) = T === Bool || any(hasbool(fieldtype(T, i)) for i in 1:fieldcount(T))

"An expression that puts a `T` together without its constructors: these are its bytes, whatever they may think of them."
construct(T, parts) = T <: Tuple ? Expr(:tuple, parts...) : Expr(:new, T, parts...)

"""
A `T` from private bytes at `p`. A `Bool` is made from its byte: one that is neither 0 nor 1 must never become a Julia
`Bool`, whose behaviour is undefined then.
"""
@generated function load_private(::Type{T}, p::Ptr{UInt8}) where {T}
    T === Bool && return :(unsafe_load(p) != 0x00)
    hasbool(T) || return :(unsafe_load(Ptr{T}(p)))
    parts = [:(load_private($(fieldtype(T, i)), p + $(Int(fieldoffset(T, i))))) for i in 1:fieldcount(T)]
    return construct(T, parts)
end

"""
A `T` from shared bytes at `p`, which may change meanwhile: each primitive part by one atomic load, so that the
compiler cannot load it twice and find two values.
"""
@generated function load_shared(::Type{T}, p::Ptr{UInt8}) where {T}
    if fieldcount(T) > 0
        parts = [:(load_shared($(fieldtype(T, i)), p + $(Int(fieldoffset(T, i))))) for i in 1:fieldcount(T)]
        return construct(T, parts)
    end
    T === Bool && return :(load_relaxed(p) != 0x00)
    sizeof(T) == 0 && return Expr(:new, T)
    sizeof(T) == 16 && return quote
        low, high = load_relaxed(Ptr{UInt64}(p)), load_relaxed(Ptr{UInt64}(p + 8))
        reinterpret($T, UInt128(high) << 64 | low)
    end
    W = Dict(1 => UInt8, 2 => UInt16, 4 => UInt32, 8 => UInt64)[sizeof(T)]
    return :(reinterpret($T, load_relaxed(Ptr{$W}(p))))
end
