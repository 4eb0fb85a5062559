# Durability and time travel.

const LOG_DIR = mktempdir(; prefix = "mmsb-julia-log.")

@testset "a log is written, checkpointed, and travelled in" begin
    lsns = UInt64[]
    mmsb_start("logged"; log = LOG_DIR, durability = :buffered, source = "writer") do bus
        page = create_page(bus, "tank"; schema = "level:f64")
        for level in 1:5
            push!(lsns, update_page(page, Float64[level]))
        end
        wait_durable(bus, lsns[end])
        @test durable_lsn(bus) > lsns[end] && log_status(bus).state in (:running, :beginning) &&
            log_status(bus).supervised
        made = checkpoint_log!(bus)
        @test made.pages == 1 && made.end_lsn >= lsns[end]
        push!(lsns, update_page(page, [6.0]))
        set_durability!(bus, :synced)
        push!(lsns, update_page(page, [7.0]))
        @test durable_lsn(bus) > lsns[end]
        @test_throws NotDurable wait_durable(bus, lsns[end] + 1000; timeout = 0.05)
    end
    log = Log(LOG_DIR)
    bounds = log_bounds(log)
    @test bounds.end_lsn > lsns[end] && occursin("Log(", sprint(show, log))
    for (level, lsn) in enumerate(lsns)
        lsn >= bounds.oldest_state || continue
        state = state_at(log, lsn)
        @test state["tank"][:level] == level && haskey(state, "tank") && length(state) == 1 && keys(state) == ["tank"]
        @test replay_to_epoch(log, "tank", level)[:level] == level
    end
    final = state_at(LOG_DIR, :end)
    @test final["tank"][:level] == 7 && final.hash == state_at(log, time() + 10).hash &&
        [i.name for i in final] == ["tank"]
    @test_throws NoSuchPage final["none"]
    @test_throws NotInLog replay_to_epoch(log, "tank", 99)
    @test_throws ArgumentError state_at(log, :noon)
    past = history(log, "tank")
    @test [change.lsn for change in past[end-1:end]] == lsns[end-1:end] && past[end].source == "writer"
    @test past[end].ranges[1].new == reinterpret(UInt8, [7.0]) && occursin("Change(", sprint(show, past[end]))
    different = diff(log, lsns[end-1], lsns[end])
    @test length(different) == 1 && different[1].after.lsn == lsns[end] && !isempty(different[1].ranges)
    @test isempty(diff(log, lsns[end], :end))
    bus = load_checkpoint!(log, "past"; at = lsns[end-1])
    @test value(bus["tank"]) == (level = 6.0,)
    @test_throws BusExists load_checkpoint!(LOG_DIR, "past")
    mmsb_stop(bus)
    # The bus itself, after its segments are gone.
    unlink_bus("logged")
    @test mmsb_start(bus -> bus["tank"][:level], "logged"; log = LOG_DIR) == 7
    foreach(unlink_bus, ("past", "logged"))
    @test_throws MMSBError Log("/nonexistent")
end

rm(LOG_DIR; recursive = true, force = true)
