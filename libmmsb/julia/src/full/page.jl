# Pages that can be written.

"""
    Page

A page of a [`Bus`](@ref), from `bus[name]` or [`create_page`](@ref). Reads like every [`AbstractPage`](@ref); changed
by [`update_page`](@ref) and `page[:field] = value`.
"""
mutable struct Page <: AbstractPage
    bus::Bus
    handle::UInt64                          # 0: closed
    id::UInt64
    name::String
    schema::Union{Nothing,Schema}
    size::Int
    checked::DataType
end

page_number(page::Page) = id_index(page.id)
Base.sizeof(page::Page) = page.size

"What the library says of a page, copied."
function described(info::CPageInfo)
    schema = info.schema_len == 0 ? nothing : decode_schema(bytes_from_c(info.schema_bytes, info.schema_len))
    return (id = info.id, name = from_c(info.name), schema = schema, size = Int(info.size))
end

function list_page(list::UInt64, i::Int)
    info = sized(CPageInfo)
    check(ccall(LIB.list_page, Int32, (UInt64, Csize_t, Ptr{CPageInfo}), list, i, info))
    return info[]
end

"A page handle of the library becomes a `Page`. The caller holds the lock."
function adopt_page(bus::Bus, handle::UInt64)
    about = try
        only_item(from_list(list -> ccall(LIB.page_describe, Int32, (UInt64, Ptr{UInt64}), handle, list),
                            (list, i) -> described(list_page(list, i))))
    catch
        ccall(LIB.page_close, Int32, (UInt64,), handle)
        rethrow()
    end
    page = Page(bus, handle, about.id, about.name, about.schema, about.size, Nothing)
    finalizer(release, page)
    return page
end

only_item(items) = length(items) == 1 ? items[1] : throw(InternalError("a list of one has $(length(items)) items"))

function release(page::Page)
    bus = page.bus
    page.handle == 0 || bus.handle == 0 ? (return nothing) : nothing
    trylock(bus.lock) || return (finalizer(release, page); nothing)
    handle = page.handle
    page.handle = 0
    handle == 0 || bus.handle == 0 || ccall(LIB.page_close, Int32, (UInt64,), handle)
    unlock(bus.lock)
    return nothing
end

"""
    close(page)

Ends a handle; the page stays. Not needed: the garbage collector, or [`mmsb_stop`](@ref), ends those that are left.
"""
function Base.close(page::Page)
    bus = page.bus
    while !trylock(bus.lock)
        yield()
    end
    handle = page.handle
    page.handle = 0
    handle == 0 || bus.handle == 0 || ccall(LIB.page_close, Int32, (UInt64,), handle)
    unlock(bus.lock)
    return nothing
end

Base.isopen(page::Page) = page.handle != 0 && isopen(page.bus)

"""
    create_page(bus, name, size; schema, versions, metadata, if_missing = false) -> Page
    create_page(bus, name; schema, ...)
    create_page(bus, name, T; ...)

Makes a page of `size` bytes, of what `schema` describes (text such as `"price:f64,bids:f64[10]"` or `"f64[8]"`), or
for an `isbits` type `T`, whose fields become the schema. All its bytes are 0. `name = nothing` makes a page without a
name.

`versions = 4` or more makes a cell, for small values that are written and read all the time. `metadata` are pairs of
strings. With `if_missing`, a page of that name is taken as it is, if size and schema fit ([`WrongSchema`](@ref)
otherwise); without, [`PageExists`](@ref) is thrown.
"""
function create_page(bus::Bus, name::Union{AbstractString,Nothing}, size::Integer = 0; schema = nothing,
                     versions::Integer = 0, metadata = (), if_missing::Bool = false)
    name, schema = text_or_nothing(name), text_or_nothing(schema)
    keys = String[String(key) for (key, _) in metadata]
    values = String[String(value) for (_, value) in metadata]
    handle = Ref{UInt64}(0)
    serialised(bus) do
        GC.@preserve name schema keys values begin
            c_keys, c_values = Ptr{UInt8}[c_text(key) for key in keys], Ptr{UInt8}[c_text(value) for value in values]
            GC.@preserve c_keys c_values begin
                options = Ref(CPageOptions(sizeof(CPageOptions), versions, size, c_text(name), c_text(schema),
                    pointer(c_keys),
                                           pointer(c_values), length(keys)))
                create = if_missing ? LIB.page_open_or_create : LIB.page_create
                check(ccall(create, Int32, (UInt64, Ptr{CPageOptions}, Ptr{UInt64}), bus.handle, options, handle))
            end
        end
        adopt_page(bus, handle[])
    end
end

function create_page(bus::Bus, name::Union{AbstractString,Nothing}, ::Type{T}; options...) where {T}
    isbitstype(T) && sizeof(T) > 0 || throw(ArgumentError("$T is no isbits type"))
    return create_page(bus, name, sizeof(T); schema = schema_text(T), options...)
end

"The schema of an `isbits` type, as text: an array for a number or a tuple of them, else a record of its fields."
function schema_text(::Type{T}) where {T}
    element(E) = (i = findfirst(==(E), ELEMENTS); i === nothing || i == TEXT ? nothing : ELEMENT_NAMES[i])
    function shape(F)
        element(F) === nothing || return element(F)
        F <: NTuple{N,Any} where {N} && fieldcount(F) > 0 && all(==(fieldtype(F, 1)), F.parameters) &&
            element(fieldtype(F, 1)) !== nothing && return string(element(fieldtype(F, 1)), "[", fieldcount(F), "]")
        throw(ArgumentError("a schema cannot say what a $F is"))
    end
    T <: Tuple || fieldcount(T) == 0 ? (text = shape(T); return endswith(text, ']') ? text : text * "[1]") : nothing
    return join((string(name, ":", shape(fieldtype(T, name))) for name in fieldnames(T)), ",")
end

function lookup(bus::Bus, name::String)
    handle = Ref{UInt64}(0)
    serialised(bus) do
        status = ccall(LIB.page_open, Int32, (UInt64, Cstring, Ptr{UInt64}), bus.handle, name, handle)
        status == MISSING && return nothing
        check(status)
        adopt_page(bus, handle[])
    end
end

Base.getindex(bus::Bus, name::AbstractString) =
    (page = lookup(bus, String(name)); page === nothing ? throw(NoSuchPage("bus $(bus.name) has no page $name")) : page)
Base.get(bus::Bus, name::AbstractString, default) = (page = lookup(bus,
    String(name)); page === nothing ? default : page)
Base.haskey(bus::Bus, name::AbstractString) = lookup(bus, String(name)) !== nothing

function Base.keys(bus::Bus)
    names = serialised(bus) do
        prefix = ""
        from_list(list -> ccall(LIB.bus_pages, Int32, (UInt64, Cstring, Ptr{UInt64}), bus.handle, prefix, list),
                  (list, i) -> from_c(list_page(list, i).name))
    end
    return sort!(String[name for name in names if !isempty(name)])
end

Base.length(bus::Bus) = length(keys(bus))
Base.eltype(::Type{Bus}) = Pair{String,Page}
Base.IteratorSize(::Type{Bus}) = Base.SizeUnknown()
Base.pairs(bus::Bus) = bus

function Base.iterate(bus::Bus, state = (keys(bus), 1))
    names, next = state
    while next <= length(names)
        page = lookup(bus, names[next])
        page === nothing || return names[next] => page, (names, next + 1)
        next += 1
    end
    return nothing
end

function metadata(page::Page)
    pairs = serialised(page.bus) do
        check_page(page)
        from_list(list -> ccall(LIB.page_describe, Int32, (UInt64, Ptr{UInt64}), page.handle, list),
                  function (list, i)
                      count = Int(list_page(list, i).meta_count)
                      key, value = Ref{Ptr{UInt8}}(C_NULL), Ref{Ptr{UInt8}}(C_NULL)
                      map(0:count-1) do entry
                          check(ccall(LIB.list_meta, Int32, (UInt64, Csize_t, Csize_t, Ptr{Ptr{UInt8}},
                              Ptr{Ptr{UInt8}}),
                                      list, i, entry, key, value))
                          from_c(key[]) => Vector{UInt8}(from_c(value[]))
                      end
                  end)
    end
    return Dict{String,Vector{UInt8}}(only_item(pairs))
end

"Throws for a handle that was closed. The caller holds the lock, and lets go of it."
@inline check_page(page::Page) = page.handle == 0 ? throw(Closed("the handle of $(label(page)) was closed")) : nothing

@inline function enter(page::Page)
    enter(page.bus)
    page.handle == 0 && closed_page(page)
    return nothing
end

@noinline closed_page(page::Page) = (leave(page.bus); check_page(page))

@inline leave(page::Page) = leave(page.bus)

@inline function copy_page!(to::Ptr{UInt8}, page::Page, offset::Int, bytes::Int, whole::Bool)
    fits = whole ? bytes == page.size : (offset >= 0) & (bytes >= 0) & (offset + bytes <= page.size)
    fits || throw_wrong_size(page, offset, bytes, whole, page.size)
    found = Ref(CPageVersion(0, 0))
    enter(page)
    status = ccall(LIB.page_read_range, Int32, (UInt64, Csize_t, Ptr{UInt8}, Csize_t, Ptr{CPageVersion}),
                   page.handle, offset, to, bytes, found)
    leave(page)
    check(status)
    return Version(found[].lsn, found[].epoch, 0)
end

function version(page::Page)
    found = Ref(CPageVersion(0, 0))
    enter(page)
    status = ccall(LIB.page_get_version, Int32, (UInt64, Ptr{CPageVersion}), page.handle, found)
    leave(page)
    check(status)
    return Version(found[].lsn, found[].epoch, 0)
end

"""
    read_after!(buffer, page, lsn; timeout = 1) -> Version

Waits until the delta at `lsn`, or a later one, is in the page, then copies it like [`read_version!`](@ref).
"""
function read_after!(buffer::DenseArray{T}, page::Page, lsn::Integer; timeout::Real = 1) where {T}
    isbitstype(T) && !bool_inside(T) || throw(ArgumentError("a page cannot be copied into elements of $T"))
    sizeof(T) * length(buffer) == page.size || throw_wrong_size(page, 0, sizeof(T) * length(buffer), true, page.size)
    found = Ref(CPageVersion(0, 0))
    enter(page)
    status = GC.@preserve buffer ccall(LIB.page_read_after, Int32,
        (UInt64, UInt64, UInt64, Ptr{UInt8}, Csize_t, Ptr{CPageVersion}),
        page.handle, lsn, nanoseconds(timeout), Ptr{UInt8}(pointer(buffer)), page.size, found)
    leave(page)
    check(status)
    return Version(found[].lsn, found[].epoch, 0)
end

# What update_page is made of. Each writes bytes as one delta, and returns its LSN.

@inline function write_whole!(page::Page, from::Ptr{UInt8}, bytes::Int)
    lsn = Ref{UInt64}(0)
    enter(page)
    status = ccall(LIB.page_write, Int32, (UInt64, Ptr{UInt8}, Csize_t, Ptr{UInt64}), page.handle, from, bytes, lsn)
    leave(page)
    check(status)
    return lsn[]
end

@inline function patch!(page::Page, offset::Int, from::Ptr{UInt8}, bytes::Int, cause::UInt64)
    lsn = Ref{UInt64}(0)
    enter(page)
    status = cause == 0 ?
        ccall(LIB.page_patch, Int32, (UInt64, Csize_t, Ptr{UInt8}, Csize_t, Ptr{UInt64}), page.handle, offset, from,
            bytes, lsn) :
        ccall(LIB.page_patch_caused, Int32, (UInt64, UInt64, Csize_t, Ptr{UInt8}, Csize_t, Ptr{UInt64}),
              page.handle, cause, offset, from, bytes, lsn)
    leave(page)
    check(status)
    return lsn[]
end

function patch_many!(page::Page, ranges::Vector{CRange})
    lsn = Ref{UInt64}(0)
    enter(page)
    status = ccall(LIB.page_patch_many, Int32, (UInt64, Ptr{CRange}, Csize_t, Ptr{UInt64}), page.handle, ranges,
        length(ranges), lsn)
    leave(page)
    check(status)
    return lsn[]
end

"""
    update_page_masked(page, bytes, mask; offset = 0) -> LSN

Overwrites, from `offset` (from 0) on, those of `bytes` whose element of `mask` is true, as one delta.
"""
function update_page_masked(page::Page, bytes::DenseVector{UInt8}, mask::AbstractVector{Bool}; offset::Integer = 0)
    length(mask) == length(bytes) || throw(ArgumentError("mask and bytes are of different lengths"))
    chosen = UInt8[bit for bit in mask]
    lsn = Ref{UInt64}(0)
    enter(page)
    status = GC.@preserve bytes chosen ccall(LIB.page_write_masked, Int32,
        (UInt64, Csize_t, Ptr{UInt8}, Ptr{UInt8}, Csize_t, Ptr{UInt64}),
        page.handle, offset, pointer(chosen), pointer(bytes), length(bytes), lsn)
    leave(page)
    check(status)
    return lsn[]
end

"""
    query_page(bus, name)
    query_page(bus, name, T)
    query_page(page [, T])

What a page holds: by its schema ([`value`](@ref)), or as an `isbits` value `T`. Hold on to `bus[name]` where speed
matters.
"""
query_page(bus::Union{Bus,Observer}, name::AbstractString) = value(bus[name])
query_page(bus::Union{Bus,Observer}, name::AbstractString, ::Type{T}) where {T} = read(bus[name], T)
query_page(page::AbstractPage) = value(page)
query_page(page::AbstractPage, ::Type{T}) where {T} = read(page, T)

"""
    delete_page!(page)
    delete_page!(bus, name)

Deletes a page for everybody: reads of it throw [`PageGone`](@ref) from then on.
"""
function delete_page!(page::Page)
    enter(page)
    status = ccall(LIB.page_destroy, Int32, (UInt64,), page.handle)
    # The handle is stale if it worked.
    status == 0 && (page.handle = 0)
    leave(page)
    check(status)
    return nothing
end

delete_page!(bus::Bus, name::AbstractString) = delete_page!(bus[name])

"""
    rename_page!(page, name)
    set_schema!(page, text)
    set_metadata!(page, pairs)

Changes what is said of a page, for everybody, as deltas of their own.
"""
function rename_page!(page::Page, name::AbstractString)
    text = String(name)
    enter(page)
    status = GC.@preserve text ccall(LIB.page_rename, Int32, (UInt64, Ptr{UInt8}), page.handle, c_text(text))
    leave(page)
    check(status)
    page.name = text
    return page
end

function set_schema!(page::Page, schema::AbstractString)
    text = String(schema)
    serialised(page.bus) do
        check_page(page)
        GC.@preserve text check(ccall(LIB.page_set_schema, Int32, (UInt64, Ptr{UInt8}), page.handle, c_text(text)))
        about = only_item(from_list(list -> ccall(LIB.page_describe, Int32, (UInt64, Ptr{UInt64}), page.handle, list),
                                    (list, i) -> described(list_page(list, i))))
        page.schema = about.schema
        page.checked = Nothing
    end
    return page
end

@doc (@doc rename_page!) set_schema!

function set_metadata!(page::Page, pairs)
    keys = String[String(key) for (key, _) in pairs]
    values = String[String(value) for (_, value) in pairs]
    GC.@preserve keys values begin
        c_keys, c_values = Ptr{UInt8}[c_text(key) for key in keys], Ptr{UInt8}[c_text(value) for value in values]
        enter(page)
        status = GC.@preserve c_keys c_values ccall(LIB.page_set_meta, Int32, (UInt64, Ptr{Ptr{UInt8}},
            Ptr{Ptr{UInt8}}, Csize_t),
                                                    page.handle, pointer(c_keys), pointer(c_values), length(keys))
        leave(page)
        check(status)
    end
    return page
end

@doc (@doc rename_page!) set_metadata!

function snapshot(bus::Bus, pages)
    handles = Page[page isa Page ? page : bus[page] for page in pages]
    ids = UInt64[page.id for page in handles]
    for page in handles
        page.bus === bus || throw(OtherBus("$(label(page)) is of another bus"))
    end
    images = serialised(bus) do
        from_list(list -> ccall(LIB.bus_snapshot, Int32, (UInt64, Ptr{UInt64}, Csize_t, Ptr{UInt64}), bus.handle, ids,
            length(ids), list),
                  function (list, i)
                      image = Ref(CImage(0, CPageVersion(0, 0), C_NULL, 0))
                      check(ccall(LIB.list_image, Int32, (UInt64, Csize_t, Ptr{CImage}), list, i, image))
                      page = handles[i+1]
                      private_image(image[], page.name, page.schema)
                  end)
    end
    return Image[images...]
end

private_image(image::CImage, name, schema) =
    Image(name, id_index(image.id), id_generation(image.id), schema, Version(image.version.lsn, image.version.epoch, 0),
          bytes_from_c(image.bytes, image.size), Nothing)
