# The full face, step by step: needs libmmsb.so (MMSB_LIBRARY, or installed). It makes a bus and removes it again.
#
#   julia --project=libmmsb/julia examples/julia/tutorial.jl

using MMSB

struct Tank
    level::Float64
    valve::UInt32
    inflow::NTuple{3,Float32}
end

name = "tutorial-$(getpid())"
log = mktempdir()

mmsb_start(name; log = log, source = "tutorial") do bus
    # 1. Pages have names, and schemas that other languages can read. An isbits struct is one.
    tank = create_page(bus, "tank/1", Tank)
    println("1. ", tank)

    # 2. Every change is one delta, with its place in the one order of the bus.
    first = update_page(tank, Tank(1.5, 0, (0, 0, 0)))
    tank[:valve] = 3
    second = update_page(tank, (level = 1.75, inflow = [0.5, 0.25, 0.125]))
    println("2. LSN $first to $second: ", value(tank))

    # 3. Readers copy and check; nothing is ever torn, and nobody waits. Here is a second process's way to look at it.
    observe(name) do outside
        page = outside["tank/1"]
        println("3. ", read(page, Tank), ", in place: ", withview(v -> v[1].level, page, Tank))
    end

    # 4. Several pages at once: all or nothing.
    other = create_page(bus, "tank/2", Tank)
    transaction(bus) do t
        amount = 0.5
        t[tank][:level] -= amount
        t[other][:level] += amount
    end
    println("4. ", [image[:level] for image in snapshot(bus, [tank, other])])

    # 5. Or just quickly: many deltas in one piece.
    receipt = batch(bus) do b
        for _ in 1:100
            update_page(b[tank], Tank(2, 1, (1, 1, 1)))
        end
    end
    println("5. ", receipt)

    # 6. Changes are followed, by page or by prefix.
    subscribe(bus; prefix = "tank/", timeout = 0.1) do changes_of
        tank[:level] = 3.0
        for event in changes_of
            println("6. ", event, " ", changes(event))
        end
    end

    # 7. What is logged is on disk, and can be asked for later.
    wait_durable(bus, version(tank).lsn)
    println("7. checkpoint: ", checkpoint_log!(bus))
    tank[:level] = 4.0
    wait_durable(bus, version(tank).lsn)
    print_stats(bus)
end

# 8. The past: the state at any moment, what changed it, and a bus made of it. No bus is needed for it.
past = Log(log)
println("8. ", [change.lsn for change in history(past, "tank/1")[end-1:end]], " ", state_at(past, :end)["tank/1"][:level])
bus = load_checkpoint!(past, name * "-past")
println("   ", value(bus["tank/1"]))
mmsb_stop(bus)

foreach(unlink_bus, (name, name * "-past"))
rm(log; recursive = true)
