# Following a bus as a participant.

"""
    Subscription

Follows the deltas of a [`Bus`](@ref); from [`subscribe`](@ref). An iterator of [`Delta`](@ref)s, [`Gap`](@ref)s and
[`Image`](@ref)s.
"""
mutable struct Subscription
    bus::Bus
    handle::UInt64
    timeout::Float64
    about::Dict{UInt64,Tuple{String,Union{Nothing,Schema}}}     # what pages are called, and mean
    closed::Bool
end

"""
    subscribe(bus; prefix, pages, from = :now, gating = false, resync, timeout = Inf) -> Subscription
    subscribe(f, bus; ...)

Follows a bus: everything, the pages whose name begins with `prefix` (later ones too), or `pages` (handles or names).
`from`: `:now`; `:snapshot`, an [`Image`](@ref) of each page, then every later delta; or an LSN, from the log in the
directory `log` as far as it goes, then from the ring (`incarnation`: that the LSN is of). With a function (a `do`
block) the subscription is closed behind it. Iteration ends when `timeout` seconds pass without an event.

Writers wait for a `gating` subscription, which misses nothing. Any other that is too slow gets a [`Gap`](@ref), and
with `resync` images of its pages behind it (with `:snapshot` it does unless `resync = false`).

    subscribe(bus; prefix = "tank/", timeout = 10) do changes
        for event in changes
            println(event)
        end
    end
"""
function subscribe(bus::Bus; prefix = nothing, pages = nothing, from = :now, gating::Bool = false, resync = nothing,
                   timeout::Real = Inf, log = nothing, incarnation::Integer = 0)
    start = from === :now ? 0 : from === :snapshot ? 1 : from isa Integer ? 2 :
        throw(ArgumentError("from is :now, :snapshot or an LSN"))
    flags = UInt32(gating) | (resync === true ? 0x2 : resync === false ? 0x4 : 0x0)
    prefix, log = text_or_nothing(prefix), text_or_nothing(log)
    followed = pages === nothing ? Page[] : Page[page isa Page ? page : bus[page] for page in pages]
    ids = UInt64[page.id for page in followed]
    handle = Ref{UInt64}(0)
    GC.@preserve prefix log ids begin
        options = Ref(CSubscribeOptions(sizeof(CSubscribeOptions), flags, start, 0, c_text(prefix),
                                        pages === nothing ? Ptr{UInt64}(C_NULL) : pointer(ids), length(ids),
                                        start == 2 ? from : 0, incarnation, c_text(log)))
        serialised(bus) do
            check(ccall(LIB.subscribe, Int32, (UInt64, Ptr{CSubscribeOptions}, Ptr{UInt64}), bus.handle, options,
                handle))
        end
    end
    about = Dict{UInt64,Tuple{String,Union{Nothing,Schema}}}(page.id => (page.name, page.schema) for page in followed)
    subscription = Subscription(bus, handle[], Float64(timeout), about, false)
    finalizer(release, subscription)
    return subscription
end

function subscribe(f::Function, bus::Bus; options...)
    subscription = subscribe(bus; options...)
    try
        return f(subscription)
    finally
        close(subscription)
    end
end

function release(subscription::Subscription)
    bus = subscription.bus
    subscription.handle == 0 || bus.handle == 0 ? (return nothing) : nothing
    trylock(bus.lock) || return (finalizer(release, subscription); nothing)
    end_subscription(subscription)
    unlock(bus.lock)
    return nothing
end

function end_subscription(subscription::Subscription)
    handle = subscription.handle
    subscription.handle = 0
    subscription.closed = true
    handle == 0 || subscription.bus.handle == 0 || ccall(LIB.subscription_close, Int32, (UInt64,), handle)
    return nothing
end

"""
    close(subscription)

Ends a subscription: writers wait for it no longer. A task that waits for its next event gets [`Closed`](@ref).
"""
function Base.close(subscription::Subscription)
    bus = subscription.bus
    while !trylock(bus.lock)
        yield()
    end
    end_subscription(subscription)
    unlock(bus.lock)
    return nothing
end

Base.isopen(subscription::Subscription) = subscription.handle != 0 && isopen(subscription.bus)
Base.IteratorSize(::Type{Subscription}) = Base.SizeUnknown()
Base.eltype(::Type{Subscription}) = Event
Base.iterate(subscription::Subscription, state = nothing) =
    (event = next!(subscription; timeout = subscription.timeout); event === nothing ? nothing : (event, nothing))
Base.show(io::IO, subscription::Subscription) =
    print(io, "Subscription(", repr(subscription.bus.name), isopen(subscription) ? "" : ", closed", ")")

next!(subscription::Subscription; timeout::Real = Inf) = wait_for(() -> poll!(subscription), timeout)

function poll!(subscription::Subscription)
    bus = subscription.bus
    event = sized(CEvent)
    serialised(bus) do
        while true
            subscription.handle == 0 && throw(Closed("the subscription was closed"))
            # Without waiting in the library: that would hold up the other tasks of this thread, and every garbage
            # collection.
            status = ccall(LIB.subscription_next, Int32, (UInt64, UInt64, Ptr{CEvent}), subscription.handle, 0, event)
            check(status) == 0 || return nothing
            found = event_from(subscription, event[])
            found === nothing || return found
        end
    end
end

const EVENT_KINDS = Dict(0x03 => :create, 0x04 => :enter, 0x05 => :describe, 0x06 => :leave, 0x07 => :destroy)

"An event of the library, copied; `nothing` for those of a later version."
function event_from(subscription::Subscription, event::CEvent)
    event.event == 8 && return Gap(event.gap_from, event.gap_to)
    if event.event in (3, 4, 5)
        info = described(event.info)
        subscription.about[info.id] = (info.name, info.schema)
    end
    index, generation = id_index(event.page), id_generation(event.page)
    name, schema = event.page == 0 ? ("", nothing) : about_page(subscription, event.page)
    if event.event == 1
        return Image(name, index, generation, schema, Version(event.version.lsn, event.version.epoch, 0),
                     bytes_from_c(event.bytes, event.len), Nothing)
    end
    delta = event.event == 2
    delta || haskey(EVENT_KINDS, event.event) || return nothing
    event.event in (6, 7) && delete!(subscription.about, event.page)
    kind = delta ? get(KINDS, Int(event.kind), :unknown) : EVENT_KINDS[event.event]
    changes = Tuple{Int,Vector{UInt8}}[]
    bytes = UInt8[]
    if delta
        for i in 1:Int(event.ranges_count)
            range = unsafe_load(event.ranges, i)
            push!(changes, (Int(range.offset), bytes_from_c(range.bytes, range.len)))
        end
        bytes = bytes_from_c(event.bytes, event.len)
    end
    return Delta(event.version.lsn, index, generation, name, kind, Int(event.source), event.cause, event.time_ns,
                 event.in_transaction == 1, changes, bytes)
end

"Name and schema of a page, asked for once. The caller holds the lock."
function about_page(subscription::Subscription, id::UInt64)
    known = get(subscription.about, id, nothing)
    known === nothing || return known
    handle = Ref{UInt64}(0)
    status = ccall(LIB.page_open_id, Int32, (UInt64, UInt64, Ptr{UInt64}), subscription.bus.handle, id, handle)
    found = ("", nothing)
    if status == 0
        try
            about = only_item(from_list(list -> ccall(LIB.page_describe, Int32, (UInt64, Ptr{UInt64}), handle[], list),
                                        (list, i) -> described(list_page(list, i))))
            found = (about.name, about.schema)
        catch error
            error isa Union{PageGone,NoSuchPage} || rethrow()
        finally
            ccall(LIB.page_close, Int32, (UInt64,), handle[])
        end
    end
    length(subscription.about) < 1_000_000 || empty!(subscription.about)
    return subscription.about[id] = found
end
