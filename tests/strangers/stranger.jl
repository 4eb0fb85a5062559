# A reader from outside: it knows the Julia package's direct face, and so docs/layout.md, and nothing else.
#
#   julia tests/strangers/stranger.jl --dir DIR --bus BUS --page NAME (--reads N | --follow N)
#
# Reads the page N times, or follows N of its deltas, checks the invariant that its writers keep, and prints one line of
# JSON. Exit status: 0 nothing torn, 1 torn, 2 anything else. MMSB_JULIA names another copy of the package.

pushfirst!(LOAD_PATH, get(ENV, "MMSB_JULIA", joinpath(@__DIR__, "..", "..", "libmmsb", "julia")))
using MMSB: MMSB, observe, read_version!, watch, next!, apply!, Delta, Gap, Stalled, Contended, PageGone, MMSBError

function usage(why)
    println(stderr, "stranger.jl: ", why)
    println(stderr, "usage: stranger.jl --dir DIR --bus BUS --page NAME (--reads N | --follow N)")
    exit(2)
end

function arguments(args)
    known = Dict{String,String}()
    isodd(length(args)) && usage("an option without a value")
    for i in 1:2:length(args)
        args[i] in ("--dir", "--bus", "--page", "--reads", "--follow") || usage("what is $(args[i])?")
        known[args[i][3:end]] = args[i+1]
    end
    for needed in ("dir", "bus", "page")
        haskey(known, needed) || usage("--$needed is missing")
    end
    mode = haskey(known, "follow") ? "follow" : "reads"
    count = tryparse(Int, get(known, mode, ""))
    count !== nothing && count >= 0 || usage("--reads or --follow takes a number")
    return known["dir"], known["bus"], known["page"], mode, count
end

"word[i] = n * (2i + 1) + i, with n in word[0] and i from 0; modulo 2^64."
function holds(words::Vector{UInt64})
    n = words[1]
    good = true
    @inbounds for i in 1:length(words)-1
        good &= words[i+1] == n * (2 * UInt64(i) + 1) + UInt64(i)
    end
    return good
end

"What a run has seen."
mutable struct Tally
    done::Int
    retries::Int
    refused::Int
    torn::Int
    gaps::Int
    n::UInt64
    lsn::UInt64
end

"Judges an accepted copy; it has to hold together, and never to be older than the last one."
function judge!(tally::Tally, words::Vector{UInt64}, lsn::UInt64)
    good = holds(words) && words[1] >= tally.n && lsn >= tally.lsn
    tally.torn += !good
    tally.n, tally.lsn = max(tally.n, words[1]), max(tally.lsn, lsn)
    return nothing
end

"One read that is waited for: the version, or `nothing` if the reader gave up before a dead or stopped writer."
function attempt!(tally::Tally, words::Vector{UInt64}, page)
    try
        version = read_version!(words, page)
        tally.retries += version.retries
        return version
    catch error
        error isa Union{Stalled,Contended} || rethrow()
        tally.retries += error.retries
        tally.refused += 1
        sleep(0.001)
        return nothing
    end
end

function read_many!(tally::Tally, words::Vector{UInt64}, page, count::Int)
    while tally.done < count
        version = attempt!(tally, words, page)
        version === nothing && continue
        judge!(tally, words, version.lsn)
        tally.done += 1
    end
end

"The LSN of a copy of the page, as soon as one can be had."
function read_soon!(tally::Tally, words::Vector{UInt64}, page)
    for _ in 1:60_000
        version = attempt!(tally, words, page)
        version === nothing || return version.lsn
    end
    error("the page could not be read for a minute")
end

function follow!(tally::Tally, words::Vector{UInt64}, page, bus, count::Int)
    follower = watch(bus; pages = [page])
    bytes = unsafe_wrap(Array, Ptr{UInt8}(pointer(words)), sizeof(words))
    held = UInt64(0)
    fresh = false
    GC.@preserve words while tally.done < count
        event = next!(follower; timeout = 30)
        event === nothing && error("no delta for 30 seconds")
        if event isa Gap
            tally.gaps += 1
            fresh = false
            continue
        end
        event.kind in (:patch, :ranges, :masked, :swap) || continue
        # Read when a delta of the page arrives, not before: the one before it is on the page then, this one perhaps.
        if !fresh
            held = read_soon!(tally, words, page)
            judge!(tally, words, held)
            fresh = true
        end
        event.lsn <= held && continue
        apply!(bytes, event)
        held = event.lsn
        judge!(tally, words, held)
        tally.done += 1
    end
end

function main(args)
    dir, name, page_name, mode, count = arguments(args)
    bus = observe(name; dir = dir)
    page = bus[page_name]
    bytes = sizeof(page)
    bytes % 8 == 0 || usage("page $page_name has $bytes bytes, no whole number of words")
    words = zeros(UInt64, bytes ÷ 8)
    tally = Tally(0, 0, 0, 0, 0, 0, 0)
    # Compiled ahead of the clock.
    read_many!(Tally(0, 0, 0, 0, 0, 0, 0), words, page, min(count, 1))
    started = time_ns()
    mode == "reads" ? read_many!(tally, words, page, count) : follow!(tally, words, page, bus, count)
    seconds = (time_ns() - started) / 1e9
    each = mode == "reads" ? "\"reads\":$(tally.done)" : "\"deltas\":$(tally.done),\"gaps\":$(tally.gaps)"
    per = string(round(1e9 * seconds / max(tally.done, 1); digits = 1))
    println("{\"language\":\"julia\",\"page\":\"", escape_string(page_name), "\",\"bytes\":", bytes, ",", each,
            ",\"retries\":", tally.retries, ",\"refused\":", tally.refused, ",\"torn\":", tally.torn,
            ",\"seconds\":", round(seconds; digits = 6), ",\"ns_per_read\":", per, "}")
    return tally.torn == 0 ? 0 : 1
end

status = try
    main(ARGS)
catch error
    error isa InterruptException && rethrow()
    println(stderr, "stranger.jl: ", sprint(showerror, error))
    2
end
exit(status)
