# The direct face: a bus mapped read-only. It registers nothing, writes nothing, and can hold up nobody.

"""
    Observer

A bus that is only looked at; from [`observe`](@ref). A collection of its named pages: `observer["tank/1"]`, `haskey`,
`keys`, `length`, iteration over `name => page`.
"""
mutable struct Observer
    name::String
    mapping::Mapping
    patience::UInt64                        # nanoseconds
    open::Bool
end

"One page of an [`Observer`](@ref); from `observer[name]`."
mutable struct ObservedPage <: AbstractPage
    bus::Observer
    index::Int
    generation::UInt32
    name::String
    schema::Union{Nothing,Schema}
    size::Int
    checked::DataType                       # the type that `check_type` found right
end

"Directory of the buses: the argument, else `MMSB_DIR`, else `/dev/shm`."
directory(dir::AbstractString) = String(dir)
directory(::Nothing) = get(ENV, "MMSB_DIR", "/dev/shm")

"""
    observe(bus; dir = ENV["MMSB_DIR"] or "/dev/shm", patience = 0.02) -> Observer
    observe(f, bus; ...)

Maps a bus read-only, by what is published of its layout, without any library. Whoever may read its object may observe
it; nothing is registered, and no writer notices. With a function (a `do` block) the bus is closed behind it.

`patience` is the longest that a read goes on trying, in seconds, before it throws [`Stalled`](@ref) or
[`Contended`](@ref).

Throws [`MissingBus`](@ref), [`AccessDenied`](@ref), [`Initialising`](@ref), [`WrongLayout`](@ref),
[`BusGone`](@ref) or [`Corrupt`](@ref).
"""
function observe(bus::AbstractString; dir = nothing, patience::Real = 0.02)
    occursin(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\z", bus) || throw(BadName("$(repr(bus)) cannot be the name of a bus"))
    0 <= patience <= 3600 || throw(ArgumentError("patience is in seconds, up to an hour"))
    mapping = Mapping(joinpath(directory(dir), "mmsb.$bus.pages"))
    return Observer(String(bus), mapping, round(UInt64, patience * 1e9), true)
end

function observe(f::Function, bus::AbstractString; options...)
    observer = observe(bus; options...)
    try
        return f(observer)
    finally
        close(observer)
    end
end

"""
    close(observer)

Later reads throw [`Closed`](@ref). Reads under way on other threads finish undisturbed: the mapping itself is given
back when the garbage collector finds that nobody holds it.
"""
Base.close(bus::Observer) = (bus.open = false; nothing)
Base.isopen(bus::Observer) = bus.open

@inline check_open(bus::Observer) = bus.open ? nothing : throw(Closed("bus $(bus.name) was closed"))

@noinline function throw_not_ready(bus::Observer)
    half(bus.mapping.base, AT_STATE) == STATE_ABANDONED &&
        throw(BusGone("bus $(bus.name) was replaced by a rebuild: observe it anew"))
    throw(Corrupt("the state of bus $(bus.name) is none"))
end

@noinline throw_gone(page) = throw(PageGone("$(label(page)) was deleted"))

@noinline throw_outside(page, block) =
    throw(Corrupt("$(label(page)) lies outside of its bus (block $block)"))

page_number(page::ObservedPage) = page.index
Base.sizeof(page::ObservedPage) = page.size

@enum Disturbance writing changed

"How long one read has been trying."
struct Attempts
    count::Int
    deadline::UInt64                        # 0 until the clock was asked
    seq::UInt64                             # what `seq` was then
end

"Counts an attempt that failed, waits a little, and gives up behind the deadline."
@inline function again(page, attempts::Attempts, seq::UInt64)
    pause()
    attempts.count < 63 && return Attempts(attempts.count + 1, 0, seq)
    return again_slowly(page, attempts, seq)
end

@noinline function again_slowly(page, attempts::Attempts, seq::UInt64)
    bus = page.bus
    count = attempts.count + 1
    now = time_ns()
    attempts.deadline == 0 && return Attempts(count, now + bus.patience, seq)
    if now > attempts.deadline
        waited = string(round(bus.patience / 1e6; digits = 1), " ms")
        isodd(seq) && seq == attempts.seq &&
            throw(Stalled("a writer has been inside $(label(page)) for $waited without moving", count))
        throw(Contended("$(label(page)) changed during each of $count attempts in $waited", count))
    end
    # Perhaps the writer is waiting for this very processor, or another thread for us to let the collector run.
    count % 256 == 0 && ccall(:sched_yield, Cint, ())
    GC.safepoint()
    return Attempts(count, attempts.deadline, attempts.seq)
end

"""
Calls `f(content, bytes)` on the content of a page until nobody disturbed it, and returns what it returned then, with
the version. What `f` sees may be torn, and even be another page's; only what is returned from here is not. `f` must
not throw.
"""
@inline function undisturbed(f::F, page::ObservedPage) where {F}
    check_open(page.bus)
    mapping = page.bus.mapping
    # Never left by a `return` within: what is preserved would be let go of too early.
    return GC.@preserve mapping undisturbed_in(f, page, mapping)
end

@inline function undisturbed_in(f::F, page::ObservedPage, mapping::Mapping) where {F}
    bus = page.bus
    entry_at = mapping.geometry.directory_at + 8 * page.index
    attempts = Attempts(0, 0, 0)
    while true
        base = mapping.base
        half(base, AT_STATE) == STATE_READY || throw_not_ready(bus)
        entry = word(base, entry_at)
        block = entry & BLOCK_MASK
        (block != 0) & (entry >> BLOCK_BITS == page.generation) || throw_gone(page)
        at = Int(block) * BLOCK_UNIT
        isbacked(mapping, at, BLOCK_HEADER) || throw_outside(page, block)
        seq = word(base, at)
        bytes = Int(half(base, at + BLOCK_SIZE))
        versions = Int(half(base, at + BLOCK_SHAPE) >> 8 & 0xff)
        at += BLOCK_HEADER
        if versions > 1
            stride = stride_of(bytes)
            if isbacked(mapping, at, CELL_HEADER + versions * stride)
                head = word(base, at)
                slot = at + CELL_HEADER + Int(head % UInt64(versions)) * stride
                lsn, epoch = word(base, slot), word(base, slot + VERSION_EPOCH)
                result = f(base + slot + VERSION_HEADER, bytes)
                fence_acquire()
                # Version slot `head` is written again by the publication that follows K - 1 others.
                there = word(base, entry_at) == entry
                good = there & (word(base, at) - head <= UInt64(versions - 2)) # validated: cell not overtaken
                good && return result, Version(lsn, epoch, attempts.count)
            elseif word(base, entry_at) == entry && word(base, at - BLOCK_HEADER) == seq
                throw_outside(page, block)
            end
        elseif iseven(seq)
            if isbacked(mapping, at, bytes)
                lsn = word(base, at - BLOCK_HEADER + BLOCK_LSN)
                result = f(base + at, bytes)
                fence_acquire()
                # First the entry, then `seq`: a loaned block may be filled again and come back to its page, and
                # whoever sees the entry that brings it back sees its new `seq`. The other way round, the old `seq`
                # and the new entry could be met.
                there = word(base, entry_at) == entry
                good = there & (word(base, at - BLOCK_HEADER) == seq) # validated: entry and seq unchanged
                good && return result, Version(lsn, seq >> 1, attempts.count)
            elseif word(base, entry_at) == entry && word(base, at - BLOCK_HEADER) == seq
                throw_outside(page, block)
            end
        end
        attempts = again(page, attempts, seq)
    end
end

"Copies bytes `offset` (from 0) to `offset + bytes`; with `whole`, only if that is all of the page."
@inline function copy_page!(to::Ptr{UInt8}, page::ObservedPage, offset::Int, bytes::Int, whole::Bool)
    size, version = undisturbed(page) do content, size
        fits = whole ? bytes == size : (offset >= 0) & (bytes >= 0) & (offset + bytes <= size)
        fits && copy_racing!(to, content + offset, bytes)
        fits ? -1 : size
    end
    size == -1 || throw_wrong_size(page, offset, bytes, whole, size)
    return version
end

@noinline function throw_wrong_size(page, offset, bytes, whole, size)
    whole && throw(WrongSize("$(label(page)) has $size bytes, not $bytes"))
    throw(OutOfRange("bytes $offset to $(offset + bytes) of $(label(page)), which has $size"))
end

"""
    version(page) -> Version

Which version a page is in now, without reading its content.
"""
version(page::ObservedPage) = last(undisturbed((content, bytes) -> nothing, page))
