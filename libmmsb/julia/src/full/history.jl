# The log: checkpoints, the state at a moment, differences, who changed what.

"""
    Log(dir)

The log of a bus, as files in a directory. Reading it needs no bus, changes nothing, and may be done while it is
written. Throws [`MissingBus`](@ref) if there is none, [`DamagedLog`](@ref).
"""
struct Log
    dir::String

    function Log(dir::AbstractString)
        need_library()
        log = new(String(dir))
        log_bounds(log)
        return log
    end
end

# A handle of a log belongs to one thread, and so does everything from it. It is opened for each question: then any
# task may ask, and no finalizer has to be on the right thread.
function with_log(f, log::Log)
    handle = Ref{UInt64}(0)
    check(ccall(LIB.log_open, Int32, (Cstring, Ptr{UInt64}), log.dir, handle); missing_is = MissingBus)
    try
        return f(handle[])
    finally
        ccall(LIB.log_close, Int32, (UInt64,), handle[])
    end
end

Base.show(io::IO, log::Log) = print(io, "Log(", repr(log.dir), ")")

"""
    log_bounds(log) -> (first_lsn, oldest_state, end_lsn)

What a log covers: its oldest record, the oldest LSN of which the state can be had, and the LSN behind its last
record.
"""
function log_bounds(log::Log)
    bounds = Ref(CLogBounds(0, 0, 0))
    with_log(handle -> check(ccall(LIB.log_get_bounds, Int32, (UInt64, Ptr{CLogBounds}), handle, bounds)), log)
    return (first_lsn = bounds[].first_lsn, oldest_state = bounds[].oldest_state, end_lsn = bounds[].end_lsn)
end

"A moment: an LSN, a time in seconds since 1970 (a float, such as `time()`), or `:end`."
moment(lsn::Integer) = CAt(0, 0, lsn)
moment(seconds::AbstractFloat) = CAt(1, 0, round(UInt64, seconds * 1e9))
moment(name::Symbol) = name === :end ? CAt(2, 0,
    0) : throw(ArgumentError("a moment is an LSN, a time in seconds or :end"))

"""
    State

All pages of a bus at one moment, as [`Image`](@ref)s: `state["tank/1"]`, `haskey`, `keys`, `length`, iteration.
`state.lsn` is behind the last delta in it, `state.time_ns` its time, `state.hash` is equal for equal states on every
machine.
"""
struct State
    lsn::UInt64
    time_ns::UInt64
    incarnation::UInt64
    hash::NTuple{16,UInt8}
    images::Vector{Image}
    names::Dict{String,Image}
end

function with_state(f, log::Log, at)
    with_log(log) do handle
        state = Ref{UInt64}(0)
        check(ccall(LIB.log_state_at, Int32, (UInt64, CAt, Ptr{UInt64}), handle, moment(at), state))
        try
            return f(state[])
        finally
            ccall(LIB.state_close, Int32, (UInt64,), state[])
        end
    end
end

"""
    state_at(log, moment) -> State

All pages as they were at a moment: behind the delta at an LSN, at a time (seconds since 1970, as a float), or `:end`.
Copies all of them. Throws [`NotInLog`](@ref), [`DamagedLog`](@ref), [`DamagedCheckpoint`](@ref).
"""
function state_at(log::Log, at)
    with_state(log, at) do state
        info = sized(CStateInfo)
        check(ccall(LIB.state_get_info, Int32, (UInt64, Ptr{CStateInfo}), state, info))
        images = Image[from_list(list -> ccall(LIB.state_pages, Int32, (UInt64, Ptr{UInt64}), state, list),
                                 (list, i) -> image_of(state, described(list_page(list, i))))...]
        names = Dict{String,Image}(image.name => image for image in images if !isempty(image.name))
        return State(info[].lsn, info[].time_ns, info[].incarnation, info[].hash, images, names)
    end
end

state_at(dir::AbstractString, at) = state_at(Log(dir), at)

function image_of(state::UInt64, about)
    image = Ref(CImage(0, CPageVersion(0, 0), C_NULL, 0))
    check(ccall(LIB.state_page_by_id, Int32, (UInt64, UInt64, Ptr{CImage}), state, about.id, image))
    return private_image(image[], about.name, about.schema)
end

Base.getindex(state::State, name::AbstractString) =
    get(() -> throw(NoSuchPage("there was no page $name at LSN $(state.lsn)")), state.names, name)
Base.haskey(state::State, name::AbstractString) = haskey(state.names, name)
Base.keys(state::State) = sort!(collect(keys(state.names)))
Base.length(state::State) = length(state.images)
Base.iterate(state::State, next = 1) = iterate(state.images, next)
Base.eltype(::Type{State}) = Image
Base.show(io::IO, state::State) = print(io, "State(LSN ", state.lsn, ", ", length(state), " pages)")

"""
    replay_to_epoch(log, page, epoch) -> Image

A page, by name, as it was when it had seen `epoch` deltas. Throws [`NotInLog`](@ref) if the log does not reach back
to it, or it has not got there.
"""
function replay_to_epoch(log::Log, page::AbstractString, epoch::Integer)
    last = state_at(log, :end)[page]
    last.version.epoch < epoch && throw(NotInLog("page $page has seen $(last.version.epoch) deltas, not $epoch"))
    last.version.epoch == epoch && return last
    # Each change moved it by one: count back from the end.
    changes = history(log, last)
    back = Int(last.version.epoch - epoch)
    back < length(changes) || throw(NotInLog("the log of page $page does not reach back to epoch $epoch"))
    image = state_at(log, changes[end-back].lsn)[page]
    image.version.epoch == epoch ||
        throw(NotInLog("the log has page $page at epoch $(image.version.epoch) where $epoch should be"))
    return image
end

"""
    Change

Who changed a page, when, and how: `lsn`, `kind`, `time_ns`, `cause`, `page`, `generation`, `source` (a name),
`transaction`, `ranges` (each with `offset`, `old` bytes, `new` bytes).
"""
struct Change
    lsn::UInt64
    kind::Symbol
    time_ns::UInt64
    cause::UInt64
    page::Int
    generation::UInt32
    source::String
    transaction::Bool
    ranges::Vector{NamedTuple{(:offset, :old, :new),Tuple{Int,Vector{UInt8},Vector{UInt8}}}}
end

Base.show(io::IO, change::Change) =
    print(io, "Change(", change.lsn, ", ", change.kind, " by ", repr(change.source), ", ", length(change.ranges),
        " ranges)")

function changed_ranges(list::UInt64, i::Int, count)
    map(0:Int(count)-1) do range
        found = Ref(CChangedRange(0, 0, C_NULL, 0, C_NULL, 0))
        check(ccall(LIB.list_change_range, Int32, (UInt64, Csize_t, Csize_t, Ptr{CChangedRange}), list, i, range,
            found))
        r = found[]
        (offset = Int(r.offset), old = bytes_from_c(r.old_bytes, r.old_len), new = bytes_from_c(r.new_bytes, r.new_len))
    end
end

"""
    history(log, page; offset = 0, bytes = all, from = 0, to = end) -> Vector{Change}

What changed a page, or `bytes` of it from `offset` on, from LSN `from` to ahead of LSN `to`, oldest first. `page`: a
handle, an [`Image`](@ref), or a name (of a page that is there at the end of the log).
"""
function history(log::Log, page; offset::Integer = 0, bytes::Integer = typemax(UInt32), from::Integer = 0,
                 to::Integer = typemax(UInt64))
    id = id_of(log, page)
    with_log(log) do handle
        found = from_list(
            list -> ccall(LIB.log_history, Int32, (UInt64, UInt64, UInt32, UInt32, UInt64, UInt64, Ptr{UInt64}),
                          handle, id, offset, bytes, from, to, list),
            function (list, i)
                change = sized(CChange)
                check(ccall(LIB.list_change, Int32, (UInt64, Csize_t, Ptr{CChange}), list, i, change))
                c = change[]
                Change(c.lsn, get(KINDS, Int(c.kind), :unknown), c.time_ns, c.cause, id_index(c.page),
                    id_generation(c.page),
                       from_c(c.source_name), c.in_transaction == 1, changed_ranges(list, i, c.ranges))
            end)
        return Change[found...]
    end
end

id_of(log::Log, page::Page) = page.id
id_of(log::Log, page::Union{Image,ObservedPage}) = page_id(page.index, page.generation)
id_of(log::Log, name::AbstractString) = id_of(log, state_at(log, :end)[name])

"""
    diff(log, from, to) -> Vector of (page, generation, before, after, redescribed, ranges)

What is different between two moments (see [`state_at`](@ref)), page by page: `before` and `after` are its
[`Version`](@ref)s, or `nothing` where it was not there; `ranges` have `offset`, `old` and `new` bytes.
"""
function Base.diff(log::Log, from, to)
    with_log(log) do handle
        from_list(list -> ccall(LIB.log_diff, Int32, (UInt64, CAt, CAt, Ptr{UInt64}), handle, moment(from),
            moment(to), list),
                  function (list, i)
                      found = sized(CPageDiff)
                      check(ccall(LIB.list_diff, Int32, (UInt64, Csize_t, Ptr{CPageDiff}), list, i, found))
                      d = found[]
                      (page = id_index(d.id), generation = id_generation(d.id),
                       before = d.is_before == 1 ? Version(d.before.lsn, d.before.epoch, 0) : nothing,
                       after = d.is_after == 1 ? Version(d.after.lsn, d.after.epoch, 0) : nothing,
                       redescribed = d.is_redescribed == 1, ranges = changed_ranges(list, i, d.ranges))
                  end)
    end
end

"""
    checkpoint_log!(bus; log = nothing, timeout = 30) -> NamedTuple

Writes a checkpoint beside the log of a bus, while writers run: restarts replay only what is behind it. `log`:
directory of the log, if another process supervises the bus. Returns `begin_lsn`, `end_lsn`, `time_ns`, `pages`,
`page_bytes`, `file_bytes`.
"""
function checkpoint_log!(bus::Bus; log = nothing, timeout::Real = 30)
    info = sized(CCheckpointInfo)
    log = text_or_nothing(log)
    serialised(bus) do
        GC.@preserve log check(ccall(LIB.bus_checkpoint, Int32, (UInt64, Ptr{UInt8}, UInt64, Ptr{CCheckpointInfo}),
                                     bus.handle, c_text(log), nanoseconds(timeout), info))
    end
    names = fieldnames(CCheckpointInfo)[3:end]
    return NamedTuple{names}(Tuple(Int(getfield(info[], name)) for name in names))
end

"""
    load_checkpoint!(log, name; at = :end, options...) -> Bus

Makes a new bus `name` with the pages of a log: from the newest checkpoint ahead of the moment `at` (see
[`state_at`](@ref)), and the deltas since. `options` as in [`mmsb_start`](@ref), without `log`. To bring a bus itself
back after a reboot, start it with its log: `mmsb_start(name; log = dir)` does this by itself.
"""
function load_checkpoint!(log::Log, name::AbstractString; at = :end, options...)
    haskey(options, :log) && throw(ArgumentError("the new bus begins without a log: give it one by mmsb_start later"))
    name = String(name)
    bus = Ref{UInt64}(0)
    with_options(; options...) do given
        with_state(log, at) do state
            check(ccall(LIB.state_create_bus, Int32, (UInt64, Cstring, Ptr{CBusOptions}, Ptr{UInt64}), state, name,
                given, bus);
                  exists_is = BusExists)
        end
    end
    return adopt(bus[], name)
end

load_checkpoint!(dir::AbstractString, name::AbstractString; options...) = load_checkpoint!(Log(dir), name; options...)
