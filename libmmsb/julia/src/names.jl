# The name directory: from names to pages, and from pages to what is said of them.

"What a cold record says of a page."
struct Cold
    index::Int
    generation::UInt32
    name::String
    schema::Union{Nothing,Schema}
    metadata::Vector{Pair{Vector{UInt8},Vector{UInt8}}}
end

function mix(x::UInt64)
    x = (x ⊻ x >> 30) * 0xbf58_476d_1ce4_e5b9
    x = (x ⊻ x >> 27) * 0x94d0_49bb_1331_11eb
    return x ⊻ x >> 31
end

name_hash(name::String) = mix(fnv1a(codeunits(name)))
id_hash(index::Integer, generation::Integer) = mix((UInt64(generation) << 32 | UInt64(index)) ⊻ 0x9e37_79b9_7f4a_7c15)

"Decodes private bytes of a cold record, from `at` (from 0) on."
function decode_cold(bytes::Vector{UInt8}, at::Int = 0)
    length(bytes) - at >= COLD_HEADER || throw(Corrupt("a cold record ends early"))
    name_len, schema_len, meta_len = (Int(little(UInt32, bytes, at + offset)) for offset in (16, 20, 24))
    name_len <= PAGE_NAME_MAX && name_len + schema_len + meta_len <= length(bytes) - at - COLD_HEADER ||
        throw(Corrupt("a cold record ends early"))
    name_at = at + COLD_HEADER
    name = String(bytes[name_at+1:name_at+name_len])
    isvalid(name) || throw(Corrupt("the name of a page is not UTF-8"))
    schema_at = name_at + name_len
    schema = nothing
    if schema_len > 0
        encoded = bytes[schema_at+1:schema_at+schema_len]
        little(UInt64, bytes, at + 8) == fnv1a(encoded) || throw(Corrupt("a schema does not have the hash it should"))
        schema = decode_schema(encoded)
    end
    metadata = Pair{Vector{UInt8},Vector{UInt8}}[]
    pair_at, stop = schema_at + schema_len, schema_at + schema_len + meta_len
    while pair_at < stop
        stop - pair_at >= 8 || throw(Corrupt("metadata end early"))
        key_len, value_len = Int(little(UInt32, bytes, pair_at)), Int(little(UInt32, bytes, pair_at + 4))
        key_len + value_len <= stop - pair_at - 8 || throw(Corrupt("metadata end early"))
        pair_at += 8
        push!(metadata, bytes[pair_at+1:pair_at+key_len] => bytes[pair_at+key_len+1:pair_at+key_len+value_len])
        pair_at += key_len + value_len
    end
    return Cold(little(UInt32, bytes, at), little(UInt32, bytes, at + 4), name, schema, metadata)
end

"""
Copies the cold record behind an entry of the name directory: bytes, or `nothing` when the entry changed meanwhile, so
that they mean nothing.
"""
function copy_cold(mapping::Mapping, entry_at::Int, entry::UInt64)
    base = mapping.base
    block = Int(entry & BLOCK_MASK) * BLOCK_UNIT
    at = block + BLOCK_HEADER
    readable = isbacked(mapping, block, BLOCK_HEADER + COLD_HEADER)
    # The block may be freed, filled and linked again under the very same entry: then its state or LSN is another.
    state, lsn = readable ? (word(base, block + BLOCK_STATE), word(base, block + BLOCK_LSN)) : (UInt64(0), UInt64(0))
    parts = readable ? sum(Int(half(base, at + offset)) for offset in (16, 20, 24)) : 0
    fits = readable && parts <= COLD_BYTES_MAX && isbacked(mapping, at, COLD_HEADER + parts)
    copy = Vector{UInt8}(undef, fits ? COLD_HEADER + parts : 0)
    fits && GC.@preserve copy copy_racing!(pointer(copy), base + at, length(copy))
    fence_acquire()
    moved = readable && (word(base, block + BLOCK_STATE) != state || word(base, block + BLOCK_LSN) != lsn)
    good = !moved && word(base, entry_at) == entry # validated: entry and cold block unchanged
    good || return nothing
    fits || throw(Corrupt("a name's cold record lies outside of its bus"))
    return copy
end

"""
Probes the name directory. `wanted(cold)` decides; its hash chose where to begin. An entry that is replaced may move
to a place that the probe has passed: nothing is believed to be missing before two probes, one after the other, met
the same words. Bounded.
"""
function probe(wanted, mapping::Mapping, hash::UInt64, by_id::Bool)
    geometry = mapping.geometry
    tag = hash >> (64 - NAME_TAG_BITS)
    before = nothing
    for _ in 1:16
        met = UInt64(0)
        moved = false
        for step in 0:geometry.names_slots-1
            at = geometry.names_at + 8 * Int((hash + UInt64(step)) & UInt64(geometry.names_slots - 1))
            entry = word(mapping.base, at)
            met = mix(met ⊻ entry)
            entry == 0 && break
            entry == NAME_REMOVED && continue
            (entry & NAME_BY_ID != 0) == by_id && (entry & ~NAME_BY_ID) >> BLOCK_BITS == tag || continue
            bytes = copy_cold(mapping, at, entry)
            bytes === nothing && (moved = true; continue)
            cold = decode_cold(bytes)
            wanted(cold) && return cold
        end
        !moved && before == met && return nothing
        before = moved ? nothing : met
    end
    return nothing
end

find_by_name(mapping::Mapping, name::String) = probe(cold -> cold.name == name, mapping, name_hash(name), false)

find_by_id(mapping::Mapping, index::Integer, generation::Integer) =
    probe(cold -> cold.index == index && cold.generation == generation, mapping, id_hash(index, generation), true)

"All named pages there are: their cold records."
function all_named(mapping::Mapping)
    found = Cold[]
    GC.@preserve mapping for slot in 0:mapping.geometry.names_slots-1           # no `return` in here
        at = mapping.geometry.names_at + 8 * slot
        for _ in 1:8
            entry = word(mapping.base, at)
            entry <= NAME_REMOVED || entry & NAME_BY_ID != 0 ? break : nothing
            bytes = copy_cold(mapping, at, entry)
            bytes === nothing && continue
            push!(found, decode_cold(bytes))
            break
        end
    end
    return found
end

"A handle for a page that may have a cold record; `nothing` when the page is gone."
function handle(bus::Observer, index::Int, generation::UInt32, cold::Union{Nothing,Cold})
    name, schema = cold === nothing ? ("", nothing) : (cold.name, cold.schema)
    mapping = bus.mapping
    size = GC.@preserve mapping size_of_page(mapping, index, generation)
    size === nothing && return nothing
    return ObservedPage(bus, index, generation, name, schema, size, Nothing)
end

"""
The bytes of a page, `nothing` if it is gone. It keeps them for life, so neither a writer inside nor one who died there is in
the way: only that the block is still the page's behind the look at it is asked.
"""
function size_of_page(mapping::Mapping, index::Int, generation::UInt32)
    base = mapping.base
    entry_at = mapping.geometry.directory_at + 8 * index
    while true
        entry = word(base, entry_at)
        entry & BLOCK_MASK != 0 && entry >> BLOCK_BITS == generation || return nothing
        at = Int(entry & BLOCK_MASK) * BLOCK_UNIT
        fits = isbacked(mapping, at, BLOCK_HEADER)
        bytes = fits ? Int(half(base, at + BLOCK_SIZE)) : 0
        fence_acquire()
        word(base, entry_at) == entry || continue
        fits && 0 < bytes <= PAGE_BYTES_MAX && isbacked(mapping, at + BLOCK_HEADER, bytes) ||
            throw(Corrupt("page $index lies outside of its bus"))
        return bytes
    end
end

"The entry of a page index: generation, and whether there is a page."
function entry_of(mapping::Mapping, index::Int)
    0 <= index < mapping.geometry.pages_max || return (UInt32(0), false)
    entry = GC.@preserve mapping word(mapping.base, mapping.geometry.directory_at + 8 * index)
    return (UInt32(entry >> BLOCK_BITS), entry & BLOCK_MASK != 0)
end

function lookup(bus::Observer, name::String)
    check_open(bus)
    mapping = bus.mapping
    # A page may be deleted, and another made with its name, between the two steps.
    for _ in 1:8
        cold = GC.@preserve mapping find_by_name(mapping, name)
        cold === nothing && return nothing
        cold.index < mapping.geometry.pages_max ||
            throw(Corrupt("name $name leads to page $(cold.index), which cannot be"))
        page = handle(bus, cold.index, cold.generation, cold)
        page === nothing || return page
    end
    return nothing
end

function lookup(bus::Observer, index::Int)
    check_open(bus)
    mapping = bus.mapping
    generation, present = entry_of(mapping, index)
    present || return nothing
    cold = GC.@preserve mapping find_by_id(mapping, index, generation)
    return handle(bus, index, generation, cold)
end

"""
    observer[name] -> ObservedPage
    observer[number] -> ObservedPage

Looks a page up, by name or by its number on the bus (from 0). The handle stays with this very page: when the page is
deleted, reads throw [`PageGone`](@ref), also if another page of that name is made. Throws [`NoSuchPage`](@ref).
"""
Base.getindex(bus::Observer, name::AbstractString) =
    (page = lookup(bus, String(name)); page === nothing ? throw(NoSuchPage("bus $(bus.name) has no page $name")) : page)

Base.getindex(bus::Observer, index::Integer) =
    (page = lookup(bus, Int(index)); page === nothing ? throw(NoSuchPage("bus $(bus.name) has no page $index")) : page)

Base.get(bus::Observer, name::AbstractString, default) =
    (page = lookup(bus, String(name)); page === nothing ? default : page)

Base.haskey(bus::Observer, name::AbstractString) = lookup(bus, String(name)) !== nothing

"""
    keys(observer)

Names of all named pages, sorted: those there are now.
"""
Base.keys(bus::Observer) = (check_open(bus); sort!(unique!(String[cold.name for cold in all_named(bus.mapping)])))

Base.length(bus::Observer) = length(keys(bus))
Base.eltype(::Type{Observer}) = Pair{String,ObservedPage}
Base.IteratorSize(::Type{Observer}) = Base.SizeUnknown()

function Base.iterate(bus::Observer, state = (keys(bus), 1))
    names, next = state
    while next <= length(names)
        page = lookup(bus, names[next])
        page === nothing || return names[next] => page, (names, next + 1)
        next += 1
    end
    return nothing
end

Base.pairs(bus::Observer) = bus
Base.values(bus::Observer) = [page for (_, page) in bus]

"""
    metadata(page) -> Dict{String,Vector{UInt8}}

The key-value pairs that were stored with a page, as they are now.
"""
function metadata(page::ObservedPage)
    check_open(page.bus)
    mapping = page.bus.mapping
    cold = GC.@preserve mapping find_by_id(mapping, page.index, page.generation)
    return Dict{String,Vector{UInt8}}(cold === nothing ? () : (String(copy(key)) => value for (key,
        value) in cold.metadata))
end

"""
    source(observer, number) -> String

Name of a source of deltas, such as a delta's `source` says; `""` for one without a name.
"""
function source(bus::Observer, number::Integer)
    check_open(bus)
    mapping = bus.mapping
    0 <= number < mapping.geometry.sources_max || return ""
    at = mapping.geometry.sources_at + SOURCE_ENTRY * Int(number)
    GC.@preserve mapping begin
        len = Int(half(mapping.base, at))
        len <= SOURCE_NAME_MAX || throw(Corrupt("the name of source $number has $len bytes"))
        bytes = UInt8[load_relaxed(mapping.base + at + SOURCE_NAME + i) for i in 0:len-1]
    end
    return String(bytes)
end

"""
    iscurrent(observer) -> Bool

Whether the name of the bus still leads to what is observed: false once it was removed, or replaced by another. A
removed bus can still be read; it does not change any more, so ask now and then. Costs a system call.
"""
function iscurrent(bus::Observer)
    check_open(bus)
    here, there = stat(bus.mapping.fd), stat(bus.mapping.path)
    return (here.device, here.inode) == (there.device, there.inode)
end

"""
    durable_lsn(observer) -> UInt64
    published_lsn(observer) -> UInt64

Everything ahead of the first is on disk (0: the bus has no log); everything ahead of the second is decided, and may
be a little behind.
"""
durable_lsn(bus::Observer) = (check_open(bus); m = bus.mapping; GC.@preserve m word(m.base, AT_DURABLE_LSN))
published_lsn(bus::Observer) = (check_open(bus); m = bus.mapping; GC.@preserve m word(m.base, AT_PUBLISHED))

function Base.show(io::IO, bus::Observer)
    print(io, "Observer(", repr(bus.name), bus.open ? "" : ", closed", ")")
end

function Base.show(io::IO, ::MIME"text/plain", bus::Observer)
    print(io, "Observer of bus ", repr(bus.name))
    bus.open || return print(io, ", closed")
    names = keys(bus)
    print(io, " with ", length(names), " named page", length(names) == 1 ? "" : "s")
    for name in Iterators.take(names, 20)
        page = lookup(bus, name)
        page === nothing || print(io, "\n  ", rpad(name, 24), " ", lpad(page.size, 10), " B  ", something(page.schema,
            ""))
    end
    length(names) > 20 && print(io, "\n  ...")
    return nothing
end
