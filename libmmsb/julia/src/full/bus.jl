# Participants: creating, attaching and leaving buses, and what is known of them.

"""
    Bus

A bus that this process takes part in; from [`mmsb_start`](@ref). A collection of its named pages, like
[`Observer`](@ref): `bus["tank/1"]`, `haskey`, `keys`, `length`, iteration. Tasks and threads may share one; their
calls take turns.
"""
mutable struct Bus
    handle::UInt64                          # 0: closed
    # Calls of the library take turns (MMSB_SERIALISED). A spin lock, because a finalizer may only try, and must be
    # told the truth also by its own thread. Nobody waits for anything but the library while holding it.
    lock::Threads.SpinLock
    name::String
end

@inline function enter(bus::Bus)
    while !trylock(bus.lock)
        yield()
    end
    bus.handle == 0 && left(bus)
    return nothing
end

@noinline left(bus::Bus) = (unlock(bus.lock); throw(Closed("bus $(bus.name) was stopped")))

@inline leave(bus::Bus) = unlock(bus.lock)

"Runs `f` while nobody else calls the library for this bus. The plain calls of the hot path do the same by hand."
function serialised(f, bus::Bus)
    enter(bus)
    try
        return f()
    finally
        leave(bus)
    end
end

const DURABILITY = Dict(:default => 0x0, :volatile => 0x1, :buffered => 0x2, :synced => 0x3)

durability_level(level::Symbol) = UInt32(get(DURABILITY, level) do
    throw(ArgumentError("durability is :default, :volatile, :buffered or :synced"))
end)

"""
    mmsb_start(name; create = :maybe, options...) -> Bus
    mmsb_start(f, name; ...)

Takes part in a bus: attaches to it, or makes it (`create = :maybe`), only attaches (`:never`), or only makes it
(`:always`). With a function (a `do` block) [`mmsb_stop`](@ref) follows it. Needs `libmmsb.so`, see
[`LibraryMissing`](@ref).

* `dir`: directory of the segments (`ENV["MMSB_DIR"]`, else `/dev/shm`). `source`: name of this participant.
* `timeout`: longest wait for another participant or for room, in seconds. `fail_when_full`: [`Backpressure`](@ref) at
  once instead.
* `log`: directory of the log. This process supervises it unless another one does, and the bus is brought back from it
  if it is gone.
* `durability`: `:volatile`, `:buffered` (on its way within `flush` seconds) or `:synced` (on disk when a write
  returns).
* When the bus is made: `size`, `ring` (bytes), `pages_max`, `names_max`, `participants_max`, `cursors_max`,
  `sources_max`, `mode` (of those who may observe), `ctl_mode` (of those who may write).

Throws [`MissingBus`](@ref), [`BusExists`](@ref), [`AccessDenied`](@ref), [`WrongLayout`](@ref), [`BusFull`](@ref) and
others.
"""
function mmsb_start(name::AbstractString; create::Symbol = :maybe, options...)
    need_library()
    name = String(name)
    bus = Ref{UInt64}(0)
    with_options(; options...) do given
        status = if create === :maybe
            ccall(LIB.bus_open_or_create, Int32, (Cstring, Ptr{CBusOptions}, Ptr{UInt64}), name, given, bus)
        elseif create === :never
            ccall(LIB.bus_attach, Int32, (Cstring, Ptr{CBusOptions}, Ptr{UInt64}), name, given, bus)
        elseif create === :always
            ccall(LIB.bus_create, Int32, (Cstring, Ptr{CBusOptions}, Ptr{UInt64}), name, given, bus)
        else
            throw(ArgumentError("create is :maybe, :never or :always"))
        end
        check(status; missing_is = MissingBus, exists_is = BusExists)
    end
    return adopt(bus[], name)
end

function mmsb_start(f::Function, name::AbstractString; options...)
    bus = mmsb_start(name; options...)
    result = try
        f(bus)
    catch
        try
            mmsb_stop(bus)
        catch error
            @warn "stopping the bus failed as well" error
        end
        rethrow()
    end
    mmsb_stop(bus)
    return result
end

function adopt(handle::UInt64, name::String)
    bus = Bus(handle, Threads.SpinLock(), name)
    finalizer(release, bus)
    return bus
end

"Calls `f` with options for the library, and keeps alive what they point to."
function with_options(f; dir = nothing, source = nothing, log = nothing, durability::Symbol = :default,
    timeout::Real = 0,
                      flush::Real = 0, fail_when_full::Bool = false, sigbus_guard::Bool = false, size::Integer = 0,
                      ring::Integer = 0, pages_max::Integer = 0, names_max::Integer = 0, participants_max::Integer = 0,
                      cursors_max::Integer = 0, sources_max::Integer = 0, mode::Integer = 0, ctl_mode::Integer = 0)
    dir, source, log = text_or_nothing(dir), text_or_nothing(source), text_or_nothing(log)
    flags = 0x1 | UInt32(sigbus_guard) << 1 | UInt32(fail_when_full) << 2
    GC.@preserve dir source log begin
        options = Ref(CBusOptions(sizeof(CBusOptions), ABI_VERSION, flags, durability_level(durability), c_text(dir),
                                  c_text(source), c_text(log), nanoseconds(timeout), nanoseconds(flush), size, ring,
                                  pages_max, names_max, participants_max, cursors_max, sources_max, mode, ctl_mode, 0))
        f(options)
    end
end

"""
    mmsb_stop(bus)
    close(bus)

Leaves a bus; its pages and subscriptions are [`Closed`](@ref) from then on. If this process supervised its log, what
is in the ring is written and the log is sealed. The bus stays for the others, and for later: [`unlink_bus`](@ref)
removes it. A second call does nothing.
"""
function mmsb_stop(bus::Bus)
    while !trylock(bus.lock)
        yield()
    end
    handle = bus.handle
    bus.handle = 0
    status = handle == 0 ? Int32(0) : ccall(LIB.bus_close, Int32, (UInt64,), handle)
    unlock(bus.lock)
    check(status)
    return nothing
end

Base.close(bus::Bus) = mmsb_stop(bus)
Base.isopen(bus::Bus) = bus.handle != 0

"Finalizer. It runs at any allocation, perhaps within a call for this very bus: it tries, and comes back another time."
function release(bus::Bus)
    bus.handle == 0 && return nothing
    trylock(bus.lock) || return (finalizer(release, bus); nothing)
    handle = bus.handle
    bus.handle = 0
    handle == 0 || ccall(LIB.bus_close, Int32, (UInt64,), handle)
    unlock(bus.lock)
    return nothing
end

"""
    unlink_bus(name; dir = ENV["MMSB_DIR"] or "/dev/shm")

Removes a bus: its name at once, its memory when the last process that has it is gone.
"""
function unlink_bus(name::AbstractString; dir = nothing)
    need_library()
    where = directory(dir)
    GC.@preserve where check(ccall(LIB.bus_unlink, Int32, (Ptr{UInt8}, Cstring), c_text(where),
        String(name)); missing_is = MissingBus)
    return nothing
end

"""
    list_buses(; dir) -> Vector{String}

Names of the buses in a directory.
"""
function list_buses(; dir = nothing)
    need_library()
    where = directory(dir)
    names = GC.@preserve where from_list(
        list -> ccall(LIB.bus_list, Int32, (Ptr{UInt8}, Ptr{UInt64}), c_text(where), list),
        function (list, i)
            name = Ref{Ptr{UInt8}}(C_NULL)
            check(ccall(LIB.list_name, Int32, (UInt64, Csize_t, Ptr{Ptr{UInt8}}), list, i, name))
            from_c(name[])
        end)
    return String[names...]
end

"""
    get_stats(bus) -> NamedTuple

How a bus is: `pages`, `names`, `sources`, `participants`, `cursors` now; `published_lsn`, `end_lsn`, `floor_lsn`;
`deltas`, `bytes`, `waits`, `retries` over its life.
"""
function get_stats(bus::Bus)
    stats = sized(CStats)
    serialised(bus) do
        check(ccall(LIB.bus_get_stats, Int32, (UInt64, Ptr{CStats}), bus.handle, stats))
    end
    names = fieldnames(CStats)[3:end]
    return NamedTuple{names}(Tuple(Int(getfield(stats[], name)) for name in names))
end

"""
    counters(bus) -> Dict{String,Int}

The event counters of a bus.
"""
function counters(bus::Bus)
    pairs = serialised(bus) do
        from_list(list -> ccall(LIB.bus_counters, Int32, (UInt64, Ptr{UInt64}), bus.handle, list),
                  function (list, i)
                      name, count = Ref{Ptr{UInt8}}(C_NULL), Ref{UInt64}(0)
                      check(ccall(LIB.list_counter, Int32, (UInt64, Csize_t, Ptr{Ptr{UInt8}}, Ptr{UInt64}), list, i,
                          name, count))
                      from_c(name[]) => Int(count[])
                  end)
    end
    return Dict{String,Int}(pairs)
end

"""
    print_stats([io,] bus)

Writes [`get_stats`](@ref), the counters that are not 0, and the state of the log for people.
"""
print_stats(bus::Bus) = print_stats(stdout, bus)

function print_stats(io::IO, bus::Bus)
    println(io, "bus ", bus.name)
    for (name, count) in pairs(get_stats(bus))
        @printf(io, "  %-24s %16d\n", name, count)
    end
    for (name, count) in sort!(collect(counters(bus)))
        count == 0 || @printf(io, "  %-24s %16d\n", name, count)
    end
    log = log_status(bus)
    println(io, "  log: ", log.state,
        log.state === :none ? "" : ", durable ahead of LSN $(log.durable_lsn) of $(log.end_lsn)")
    return nothing
end

"""
    recover!(bus) -> Int

Finishes the work of participants that died, now; returns how many. Nobody has to: whoever waits for them does it.
"""
function recover!(bus::Bus)
    recovered = Ref{UInt32}(0)
    serialised(() -> check(ccall(LIB.bus_recover, Int32, (UInt64, Ptr{UInt32}), bus.handle, recovered)), bus)
    return Int(recovered[])
end

function source(bus::Bus, number::Integer)
    buffer = Vector{UInt8}(undef, 256)
    needed = Ref{Csize_t}(0)
    serialised(bus) do
        check(ccall(LIB.bus_source_name, Int32, (UInt64, UInt16, Ptr{UInt8}, Csize_t, Ptr{Csize_t}),
                    bus.handle, number, buffer, length(buffer), needed))
    end
    return String(buffer[1:max(Int(needed[]), 1)-1])
end

const LOG_STATES = [:none, :running, :failed, :closed, :beginning]

"""
    log_status(bus) -> NamedTuple

How the log of a bus is: `state` (`:none`, `:running`, `:failed`, `:closed`, `:beginning`), `error`, `supervised`,
`durable_lsn`, `end_lsn`, `from_lsn`, `incarnation`, `fork_lsn`, `checkpoint_lsn`, `checkpoint_ns`.
"""
function log_status(bus::Bus)
    status = sized(CLogStatus)
    serialised(() -> check(ccall(LIB.bus_log_status, Int32, (UInt64, Ptr{CLogStatus}), bus.handle, status)), bus)
    s = status[]
    return (state = get(LOG_STATES, Int(s.state) + 1, :unknown), error = Int(s.error),
        supervised = s.is_supervised == 1,
            durable_lsn = s.durable_lsn, end_lsn = s.end_lsn, from_lsn = s.from_lsn, incarnation = s.incarnation,
            fork_lsn = s.fork_lsn, checkpoint_lsn = s.checkpoint_lsn, checkpoint_ns = s.checkpoint_ns)
end

"""
    set_durability!(bus, level; flush = 0)

What later writes promise when they return: `:volatile`, `:buffered` (on their way to the disk within `flush` seconds;
0: 10 ms), `:synced`.
"""
function set_durability!(bus::Bus, level::Symbol; flush::Real = 0)
    number = durability_level(level)
    serialised(bus) do
        check(ccall(LIB.bus_set_durability, Int32, (UInt64, UInt32, UInt64), bus.handle, number, nanoseconds(flush)))
    end
    return nothing
end

function durable_lsn(bus::Bus)
    lsn = Ref{UInt64}(0)
    serialised(() -> check(ccall(LIB.bus_durable_lsn, Int32, (UInt64, Ptr{UInt64}), bus.handle, lsn)), bus)
    return lsn[]
end

"""
    wait_durable(bus, lsn; timeout = 10)

Waits until the delta at `lsn`, and all ahead of it, are on disk; other tasks run meanwhile. Throws
[`NotDurable`](@ref) after `timeout` seconds or when nobody writes the log.
"""
function wait_durable(bus::Bus, lsn::Integer; timeout::Real = 10)
    deadline = time() + timeout
    nap = 0.0005
    # In slices, so that neither the other tasks of this thread nor the garbage collector wait for the disk.
    while true
        left = max(deadline - time(), 0.0)
        enter(bus)
        status = ccall(LIB.wait_durable, Int32, (UInt64, UInt64, UInt64), bus.handle, lsn, nanoseconds(min(left, nap)))
        leave(bus)
        status == -43 && left > 0 || return (check(status); nothing)
        sleep(0.001)
        nap = min(2nap, 0.005)
    end
end

Base.show(io::IO, bus::Bus) = print(io, "Bus(", repr(bus.name), isopen(bus) ? "" : ", stopped", ")")

function Base.show(io::IO, ::MIME"text/plain", bus::Bus)
    isopen(bus) || return print(io, "Bus ", repr(bus.name), ", stopped")
    stats = get_stats(bus)
    print(io, "Bus ", repr(bus.name), ": ", stats.pages, " pages, ", stats.participants, " participants, ",
        stats.deltas, " deltas")
end
