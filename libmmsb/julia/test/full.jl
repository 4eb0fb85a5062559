struct Sample
    price::Float64
    qty::UInt32
    ok::Bool
    bids::NTuple{3,Int16}
end

unlinked(f, name; options...) = try
    mmsb_start(f, name; options...)
finally
    try unlink_bus(name) catch end
end

@testset "a bus begins, is listed, and ends" begin
    @test occursin("(/", library_version())
    unlinked("one"; source = "test") do bus
        @test isopen(bus) && sprint(show, bus) == "Bus(\"one\")" && "one" in list_buses()
        @test_throws BusExists mmsb_start("one"; create = :always)
        @test mmsb_start(other -> length(other), "one"; create = :never) == 0
        @test get_stats(bus).participants >= 1 && haskey(counters(bus), "joins")
        @test occursin("participants", sprint(print_stats, bus)) && log_status(bus).state === :none
        @test occursin("0 pages", sprint(show, MIME("text/plain"), bus)) && recover!(bus) == 0
        close(bus); close(bus)
        @test !isopen(bus) && sprint(show, bus) == "Bus(\"one\", stopped)"
        @test_throws Closed get_stats(bus)
    end
    @test_throws MissingBus mmsb_start("nothing"; create = :never)
    @test_throws MissingBus unlink_bus("nothing")
    @test_throws BadName mmsb_start("a/b")
    @test_throws ArgumentError mmsb_start("x"; create = :perhaps)
    @test_throws ArgumentError mmsb_start("x"; durability = :eternal)
    @test_throws ErrorException unlinked(bus -> error("mine"), "two")
end

@testset "pages are made, changed in every way, and deleted" begin
    unlinked("pages") do bus
        page = create_page(bus, "s", Sample; metadata = ["unit" => "mm"])
        @test string(schema(page)) == "{price:f64,qty:u32,ok:bool,bids:i16[3]}"
        @test metadata(page) == Dict("unit" => Vector{UInt8}("mm"))
        sample = Sample(1.5, 2, true, (1, -2, 3))
        first = update_page(page, sample)
        @test read(page, Sample) === sample && version(page).lsn == first && version(page).epoch == 1
        @test value(page) == (price = 1.5, qty = 2, ok = true, bids = [1, -2, 3]) == query_page(bus, "s")
        second = update_page(page, (price = 2.5, bids = [7, 8, 9]))
        @test second > first && query_page(page, Sample) === Sample(2.5, 2, true, (7, 8, 9)) && version(page).epoch == 2
        page[:qty] = 5
        page["bids[1]"] = -1
        @test page[:qty] === 0x00000005 && page[:bids] == [7, -1, 9]
        @test_throws InexactError page[:qty] = -1
        @test_throws NoSuchField page[:none] = 1
        @test_throws ArgumentError page[:bids] = [1]
        @test_throws WrongSchema update_page(page, 1.5)
        raw = create_page(bus, "raw", 16)
        update_page(raw, UInt64[1, 2])
        update_page(raw, UInt8[9]; offset = 8, cause = second)
        update_page(raw, [0 => UInt8[7], 15 => UInt8[8]])
        update_page_masked(raw, UInt8[1, 2, 3], [true, false, true]; offset = 4)
        @test read(raw) == UInt8[7, 0, 0, 0, 1, 0, 3, 0, 9, 0, 0, 0, 0, 0, 0, 8]
        @test update_page(bus, "raw", UInt64[0, 0]) > 0 && read!(zeros(UInt64, 2), raw) == [0, 0]
        @test read_after!(zeros(UInt8, 16), raw, version(raw).lsn).epoch == version(raw).epoch
        for bad in ((UInt8[1], 16), (UInt8[1], -1), (zeros(UInt8, 17), 0))
            @test_throws OutOfRange update_page(raw, bad[1]; offset = bad[2])
        end
        @test_throws WrongSize update_page(raw, UInt8[1])
        @test_throws OutOfRange update_page(raw, [0 => UInt8[1, 2], 1 => UInt8[3]])
        @test_throws PageExists create_page(bus, "raw", 16)
        @test create_page(bus, "raw", 16; if_missing = true).id == raw.id
        @test_throws WrongSchema create_page(bus, "raw", 17; if_missing = true)
        @test_throws BadSchema create_page(bus, "x"; schema = "price:f65")
        @test_throws ArgumentError create_page(bus, "x", Dict{Int,Int})
        @test keys(bus) == ["raw", "s"] && length(bus) == 2 && haskey(bus, "raw") && get(bus, "zz", 1) == 1
        @test sort([name for (name, _) in bus]) == keys(bus)
        @test_throws NoSuchPage bus["zz"]
        cell = create_page(bus, "cell"; schema = "u64[4]", versions = 4)
        update_page(cell, (0x1, 0x2, 0x3, 0x4) .|> UInt64)
        @test value(cell) == 1:4
        images = snapshot(bus, ["s", cell])
        @test images[2].name == "cell" && value(images[2]) == 1:4
        rename_page!(raw, "cooked"); set_schema!(raw, "f64[2]"); set_metadata!(raw, ["a" => "b"])
        @test value(bus["cooked"]) == [0, 0] && metadata(raw)["a"] == b"b" && name(raw) == "cooked"
        # The other face sees the same.
        outside = observe("pages")
        @test value(outside["s"]) == value(page) && metadata(outside["cooked"])["a"] == b"b"
        other = bus["cooked"]
        delete_page!(raw)
        @test_throws Closed read(raw)
        @test_throws PageGone read(other)
        delete_page!(bus, "s")
        @test_throws PageGone read(page)
        close(cell); close(cell)
        @test_throws Closed read(cell)
        @test_throws Closed update_page(cell, UInt64[1, 2, 3, 4])
    end
end

@testset "every element type goes in and comes out" begin
    unlinked("types") do bus
        for T in (UInt8, Int8, UInt16, Int16, UInt32, Int32, UInt64, Int64, Float32, Float64)
            page = create_page(bus, string(T), NTuple{3,T})
            update_page(page, (T(1), typemax(T), typemin(T)))
            @test value(page) == T[1, typemax(T), typemin(T)] && read(page, NTuple{3,T}) === (T(1), typemax(T),
                typemin(T))
            page["[1]"] = 5
            @test value(observe("types")[string(T)])[2] === T(5)
        end
        text = create_page(bus, "text"; schema = "who:char[6],on:bool")
        update_page(text, (who = "Åsa", on = true))
        @test value(text) == (who = "Åsa", on = true)
        @test_throws ArgumentError text[:who] = "too long for it"
    end
end

@testset "batches and transactions" begin
    unlinked("groups") do bus
        a, b = create_page(bus, "a"; schema = "n:i64"), create_page(bus, "b"; schema = "n:i64")
        receipt = batch(bus) do group
            update_page(group[a], Int64[1]); update_page(group["b"], (n = 2,)); mark!(group, b"here"); cause!(group, 1)
            "done"
        end
        @test receipt.value == "done" && receipt.last > receipt.first && a[:n] == 1 && b[:n] == 2
        @test_throws ArgumentError batch(group -> read(group[a]), bus)
        moved = transaction(bus) do t
            x, y = t[a], t["b"]
            x[:n] -= 10; y[:n] += 10
            x[:n]
        end
        @test moved.value == -9 && a[:n] == -9 && b[:n] == 12
        @test_throws ErrorException transaction(t -> (t[a][:n] = 5; error("no")), bus)
        @test a[:n] == -9
        kept = Ref{Any}()
        tries = 0
        transaction(bus) do t
            kept[] = t
            n = t[a][:n]
            (tries += 1) == 1 && (a[:n] = 100)
            t[a][:n] = n + 1
        end
        @test tries == 2 && a[:n] == 101
        @test_throws Conflict transaction(t -> (n = t[a][:n]; a[:n] = n + 1; t[a][:n] = 0), bus; attempts = 3)
        @test_throws Closed kept[][a][:n]
        @test occursin("ended", sprint(show, kept[]))
    end
end

@testset "subscriptions" begin
    unlinked("subs"; source = "me") do bus
        page = create_page(bus, "a/1"; schema = "u64[2]")
        subscribe(bus; prefix = "a/", from = :snapshot, timeout = 0.2) do changes_of
            @test next!(changes_of; timeout = 5) isa Image
            lsn = update_page(page, UInt64[1, 2])
            delta = next!(changes_of; timeout = 5)
            @test delta.lsn == lsn && delta.name == "a/1" && changes(delta)[1][2] == reinterpret(UInt8, UInt64[1, 2])
            @test source(bus, delta.source) == "me"
            create_page(bus, "a/2", 8); create_page(bus, "b", 8)
            delete_page!(bus, "a/2")
            @test [event.kind for event in changes_of if event isa Delta] == [:create, :destroy]
        end
        gating = subscribe(bus; pages = [page], gating = true)
        update_page(page, UInt64[3, 4])
        @test next!(gating; timeout = 5).kind in (:patch, :swap)
        @test poll!(gating) === nothing && isopen(gating)
        close(gating)
        @test_throws Closed poll!(gating)
        @test_throws ArgumentError subscribe(bus; from = :then)
        waiting = subscribe(bus)
        task = @async next!(waiting; timeout = 10)
        sleep(0.05)
        update_page(page, UInt64[5, 6])
        @test fetch(task) isa Delta
    end
end

@testset "a small update is quick and allocates nothing" begin
    unlinked("quick") do bus
        page, eight = create_page(bus, "p", NTuple{8,Float64}), zeros(UInt8, 8)
        whole(page, value, n) = (for _ in 1:n; update_page(page, value); end; nothing)
        parts(page, bytes, n) = (for _ in 1:n; update_page(page, bytes; offset = 8); end; nothing)
        reads(bytes, page, n) = (for _ in 1:n; read!(bytes, page); end; nothing)
        value, bytes = ntuple(Float64, 8), zeros(UInt8, 64)
        whole(page, value, 10); parts(page, eight, 10); reads(bytes, page, 10)
        @test (@allocated whole(page, value, 1000)) == 0
        @test (@allocated parts(page, eight, 1000)) == 0
        @test (@allocated reads(bytes, page, 1000)) == 0
        for (name, run) in (("64 B by update_page", () -> whole(page, value, 1000)), ("8 B patch", () -> parts(page,
            eight, 1000)),
                            ("64 B read", () -> reads(bytes, page, 1000)))
            run()
            times = [(t = time_ns(); run(); (time_ns() - t) / 1000) for _ in 1:51]
            println("full face, ", name, ": ", round(sort(times)[26]; digits = 1), " ns, median of 51 runs of 1000")
        end
    end
end

@testset "without the library, a clear error" begin
    program = """
        ENV["MMSB_LIBRARY"] = "/nonexistent/libmmsb.so"
        using MMSB
        try
            mmsb_start("x")
        catch error
            print(sprint(showerror, error))
        end"""
    @test startswith(read(julia_process("-e", program), String), "LibraryMissing: libmmsb.so cannot be loaded")
end
