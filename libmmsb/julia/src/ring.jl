# Following the ring, as a lossy subscriber that nobody knows of.

"""
    Watch

Follows the deltas of an [`Observer`](@ref); from [`watch`](@ref). An iterator of [`Delta`](@ref)s, [`Gap`](@ref)s
and, from `:snapshot`, [`Image`](@ref)s. `position(watch)` is the LSN it looks at next. One task at a time may use a
`Watch`.
"""
mutable struct Watch
    bus::Observer
    position::UInt64
    wanted::Union{Nothing,Set{Tuple{Int,UInt32}}}           # pages to follow; `nothing`: all
    prefix::Union{Nothing,String}
    names::Dict{Tuple{Int,UInt32},String}
    held::Dict{Tuple{Int,UInt32},UInt64}                    # LSNs that the images have
    begun::UInt64                                           # deltas ahead of it matter only to pages with an image
    queue::Vector{Any}
    slots::Vector{UInt8}
    timeout::Float64
    stalled::UInt64                                         # LSN of a claim that does not become ready, 0: none
end

const Event = Union{Delta,Gap,Image}

"""
    watch(observer; pages = nothing, prefix = nothing, from = :now, timeout = Inf) -> Watch
    watch(f, observer; ...)

Follows the deltas of a bus: of all pages, of `pages` (handles or names), or of the pages whose name begins with
`prefix`, also those made later. `from = :snapshot` first gives an [`Image`](@ref) of each of these pages, then every
delta that its image has not; an LSN begins there, if the ring still holds it. Iteration ends when `timeout` seconds
pass without an event.

    for event in watch(observer; prefix = "tank/", timeout = 1.0)
        event isa Gap ? println("missed ", event) : println(event)
    end

Nobody waits for a `Watch`: one that is too slow gets a [`Gap`](@ref). With a function, calls `f(watch)`.
"""
function watch(bus::Observer; pages = nothing, prefix = nothing, from = :now, timeout::Real = Inf)
    check_open(bus)
    pages === nothing || prefix === nothing || throw(ArgumentError("either pages or a prefix"))
    from isa Integer || from in (:now, :snapshot) || throw(ArgumentError("from is :now, :snapshot or an LSN"))
    # A delta is in the ring a moment before it is in its page, or long before, if its writer was stopped or killed in
    # between. What no page has yet is never overwritten: so with images, the walk begins at the floor, and skips what
    # the images hold.
    position = from isa Integer ? UInt64(from) : from === :now ? present(bus) : floor_of(bus)
    followed = ObservedPage[]
    if pages !== nothing
        append!(followed, page isa ObservedPage ? page : bus[page] for page in pages)
    elseif prefix !== nothing || from === :snapshot
        append!(followed, page for (name, page) in bus if prefix === nothing || startswith(name, prefix))
    end
    keys = Tuple{Int,UInt32}[(page.index, page.generation) for page in followed]
    wanted = pages === nothing && prefix === nothing ? nothing : Set(keys)
    names = Dict(key => page.name for (key, page) in zip(keys, followed))
    watch = Watch(bus, position, wanted, prefix === nothing ? nothing : String(prefix), names,
        Dict{Tuple{Int,UInt32},UInt64}(),
                  from isa Integer ? position : present(bus), [], UInt8[], Float64(timeout), 0)
    if from === :snapshot
        for page in followed
            image = try
                first(snapshot(bus, [page]))
            catch error
                error isa PageGone || rethrow()
                continue
            end
            watch.held[(page.index, page.generation)] = image.version.lsn
            push!(watch.queue, image)
        end
    end
    return watch
end

watch(f::Function, bus::Observer; options...) = f(watch(bus; options...))

Base.position(watch::Watch) = watch.position
Base.IteratorSize(::Type{Watch}) = Base.SizeUnknown()
Base.eltype(::Type{Watch}) = Event
Base.iterate(watch::Watch, state = nothing) =
    (event = next!(watch; timeout = watch.timeout); event === nothing ? nothing : (event, nothing))
Base.show(io::IO, watch::Watch) = print(io, "Watch(", repr(watch.bus.name), " at ", watch.position, ")")

"""
    next!(watch; timeout = Inf) -> Delta, Gap, Image or nothing
    next!(subscription; timeout = Inf)

The next event, or `nothing` after `timeout` seconds without one. While it waits, other tasks run; an idle `Watch`
takes next to no processor. A writer that died or was stopped with a claim in the ring holds up all that follows:
`stalled(watch)` tells its LSN then.
"""
next!(watch::Watch; timeout::Real = Inf) = wait_for(() -> poll!(watch), timeout)

"Polls without pause for some microseconds, then ever more rarely, while other tasks run."
function wait_for(poll, timeout::Real)
    spins = 0
    nap = 0.001
    deadline = 0.0
    while true
        event = poll()
        event === nothing || return event
        timeout <= 0 && return nothing
        spins += 1
        if spins < 200
            pause()
            continue
        end
        now = time_ns() / 1e9
        deadline == 0.0 && (deadline = now + timeout)
        now >= deadline && return nothing
        sleep(max(0.001, min(nap, deadline - now)))
        nap = min(1.5nap, 0.02)
    end
end

"""
    stalled(watch) -> LSN or nothing

LSN of a claim behind which nothing can be seen, if `watch` stands before one.
"""
stalled(watch::Watch) = watch.stalled == 0 ? nothing : watch.stalled

# A stamp: lap:32 | slots:13 | participant index:10 | participant generation:6 | state:3.
@inline stamp_lap(stamp::UInt64) = UInt32(stamp >> 32)
@inline stamp_slots(stamp::UInt64) = Int(stamp >> 19 & 0x1fff)
@inline stamp_state(stamp::UInt64) = UInt8(stamp & 0x07)

@inline function stamp_at(mapping::Mapping, lsn::UInt64)
    slots = UInt64(mapping.geometry.ring_slots)
    return word(mapping.base, mapping.geometry.ring_at + SLOT_BYTES * Int(lsn & (slots - 1)))
end

floor_of(bus::Observer) = (m = bus.mapping; GC.@preserve m word(m.base, AT_OVERWRITE_FLOOR))

"How far the lap of a stamp is ahead of that of a position; laps are counted in 32 bits and wrap."
@inline laps_ahead(mapping::Mapping, stamp::UInt64, lsn::UInt64) =
    reinterpret(Int32, stamp_lap(stamp) - (lsn ÷ UInt64(mapping.geometry.ring_slots)) % UInt32)

"The end of the ring, as far as it is READY: `published`, and what is READY behind it."
function present(bus::Observer)
    mapping = bus.mapping
    return GC.@preserve mapping present_in(mapping)
end

function present_in(mapping::Mapping)
    at = word(mapping.base, AT_PUBLISHED)
    for _ in 1:mapping.geometry.ring_slots
        stamp = stamp_at(mapping, at)
        laps_ahead(mapping, stamp, at) == 0 && stamp_state(stamp) in (SLOT_READY, SLOT_PADDING) || break
        at += max(stamp_slots(stamp), 1)
    end
    return at
end

"""
    poll!(watch) -> event or nothing

The next event if there is one already. Looks at no more than one ring's worth of records.
"""
function poll!(watch::Watch)
    check_open(watch.bus)
    isempty(watch.queue) || return popfirst!(watch.queue)
    mapping = watch.bus.mapping
    return GC.@preserve mapping poll_in!(watch, mapping)
end

function poll_in!(watch::Watch, mapping::Mapping)
    for _ in 1:mapping.geometry.ring_slots
        half(mapping.base, AT_STATE) == STATE_READY || throw_not_ready(watch.bus)
        step!(watch, mapping) || return nothing
        isempty(watch.queue) || return popfirst!(watch.queue)
    end
    return nothing
end

"Goes over one record, or group, or padding; false if there is nothing yet."
function step!(watch::Watch, mapping::Mapping)
    lsn = watch.position
    stamp = stamp_at(mapping, lsn)
    ahead = laps_ahead(mapping, stamp, lsn)
    state = stamp_state(stamp)
    watch.stalled = 0
    ahead < 0 && return false
    ahead > 0 && return overtaken!(watch, mapping)
    state == 0x00 && return false
    if state == SLOT_CLAIMED
        watch.stalled = lsn
        return false
    end
    count = stamp_slots(stamp)
    sound = state in (SLOT_READY, SLOT_PADDING) && 0 < count &&
        Int(lsn % UInt64(mapping.geometry.ring_slots)) + count <= mapping.geometry.ring_slots
    sound && state == SLOT_READY && copy_slots!(watch.slots, mapping, lsn, count)
    fence_acquire()
    good = word(mapping.base, AT_OVERWRITE_FLOOR) <= lsn # validated: nobody may have written here meanwhile
    good || return overtaken!(watch, mapping)
    sound || throw(Corrupt("there is no record at LSN $lsn"))
    watch.position = lsn + count
    state == SLOT_READY || return true
    at, stop = 0, count * SLOT_BYTES
    while at < stop
        record, used = decode_record(watch.slots, at, stop, lsn + at ÷ SLOT_BYTES)
        event = event_of(watch, mapping, record)
        event === nothing || push!(watch.queue, event)
        at += used * SLOT_BYTES
    end
    return true
end

"A record or group never goes round the end of the ring."
function copy_slots!(slots::Vector{UInt8}, mapping::Mapping, lsn::UInt64, count::Int)
    geometry = mapping.geometry
    length(slots) < count * SLOT_BYTES && resize!(slots, count * SLOT_BYTES)
    from = mapping.base + geometry.ring_at + SLOT_BYTES * Int(lsn & UInt64(geometry.ring_slots - 1))
    GC.@preserve slots copy_racing!(pointer(slots), from, count * SLOT_BYTES)
    return nothing
end

"Goes on at `published`, and says what was missed."
function overtaken!(watch::Watch, mapping::Mapping)
    word(mapping.base, AT_OVERWRITE_FLOOR)      # first, as `published` is never behind it
    to = word(mapping.base, AT_PUBLISHED)
    watch.position < to < UInt64(1) << 62 || throw(Corrupt("the ring has no record at LSN $(watch.position)"))
    push!(watch.queue, Gap(watch.position, to))
    watch.position = to
    return true
end

"What a record is for this watch; `nothing` if it is not for it."
function event_of(watch::Watch, mapping::Mapping, record::Record)
    1 <= record.kind <= length(KINDS) || return nothing     # of a later minor version
    kind = KINDS[record.kind]
    key = (record.page, record.generation)
    kind in (:source, :mark) && (watch.wanted === nothing || return nothing)
    kind in (:create, :describe) && learn!(watch, key, kind, record)
    wanted = watch.wanted
    name = page_name(watch, mapping, key, kind)
    if wanted !== nothing && !(key in wanted)
        return nothing
    end
    kind === :destroy && (delete!(watch.names, key); wanted === nothing || delete!(wanted, key))
    record.lsn <= get(watch.held, key, UInt64(0)) && return nothing
    record.lsn < watch.begun && !haskey(watch.held, key) && return nothing
    body = record.body
    if kind === :swap
        content = swapped_content(mapping, record)
        # Somebody has taken the block for another use: the page has moved on, so it has to be read anew.
        content === nothing && return Gap(record.lsn, record.lsn + 1)
        body = content
    end
    return Delta(record.lsn, record.page, record.generation, name, kind, record.source, record.cause,
                 time_of(mapping, record.time), record.flags & FLAG_TRANSACTION != 0,
                 ranges_of(kind, record, body), kind === :mark ? body : UInt8[])
end

"Keeps names, and the pages that a prefix means, up to date."
function learn!(watch::Watch, key, kind::Symbol, record::Record)
    at = kind === :create ? 8 : 0
    name = length(record.body) > at ? decode_cold(record.body, at).name : ""
    watch.names[key] = name
    watch.prefix === nothing && return nothing
    startswith(name, watch.prefix) && !isempty(name) ? push!(watch.wanted, key) : delete!(watch.wanted, key)
    return nothing
end

function page_name(watch::Watch, mapping::Mapping, key, kind::Symbol)
    kind in (:source, :mark) && return ""
    known = get(watch.names, key, nothing)
    known === nothing || return known
    # Names of pages that are not followed are of no use, and looking them up is not free.
    watch.wanted === nothing || key in watch.wanted || return ""
    cold = find_by_id(mapping, key...)
    length(watch.names) < 1_000_000 || empty!(watch.names)
    return watch.names[key] = cold === nothing ? "" : cold.name
end

"When, in nanoseconds since 1970: the record has the low bits of a count, the clock of this machine the rest."
function time_of(mapping::Mapping, low::UInt32)
    created = mapping.geometry.created_ns
    now = max(round(UInt64, time() * 1e9), created)
    units = (now - created) >> 20
    behind = reinterpret(Int32, (units % UInt32) - low)
    return created + UInt64(max(Int64(units) - behind, 0)) << 20
end

"""
The content that a swap published: the bytes of its block, if the block is that page's and holds that LSN ahead of the copy
and behind it. Otherwise it was used again since: the page is at that delta, or past it.

Its state is looked at besides, so that a block which is being taken for its next use is never believed. Until the page has
the block, which is a moment after the record is READY, it is held by its writer: that moment is waited for.
"""
function swapped_content(mapping::Mapping, record::Record)
    base = mapping.base
    at = Int(record.block & BLOCK_MASK) * BLOCK_UNIT
    record.block <= BLOCK_MASK && isbacked(mapping, at, BLOCK_HEADER) ||
        throw(Corrupt("the record at LSN $(record.lsn) names a block outside of its bus"))
    for _ in 1:100
        holds_content(base, at, record) && break
        word(base, at + BLOCK_LSN) == record.lsn || return nothing
        pause()
    end
    holds_content(base, at, record) || return nothing
    bytes = Int(half(base, at + BLOCK_SIZE))
    fits = bytes <= PAGE_BYTES_MAX && isbacked(mapping, at + BLOCK_HEADER, bytes)
    content = Vector{UInt8}(undef, fits ? bytes : 0)
    fits && GC.@preserve content copy_racing!(pointer(content), base + at + BLOCK_HEADER, bytes)
    fence_acquire()
    good = holds_content(base, at, record) # validated: the block holds what this record published
    good || return nothing
    fits || throw(Corrupt("the content of the record at LSN $(record.lsn) lies outside of its bus"))
    return content
end

"Whether a block is live in the record's page, or retired from it, with the record's LSN."
function holds_content(base::Ptr{UInt8}, at::Int, record::Record)
    state = word(base, at + BLOCK_STATE)
    kind, page = state & 0xff, state >> 8 & 0xffff_ffff
    page == record.page && word(base, at + BLOCK_LSN) == record.lsn || return false
    return kind == BLOCK_LIVE || kind == BLOCK_RETIRED && state >> 40 == record.lsn & 0xff_ffff
end
