mmsb("create", "watched", "--ring", "64K", "--pages", "a/1::u64[2]", "a/2::u64[2]", "b::u64[128]")
put(page, words...) = mmsb("write", "watched", page, "--as", "u64", join(words, ","))

@testset "deltas are followed, filtered, applied" begin
    bus = observe("watched")
    all, some, one = watch(bus), watch(bus; prefix = "a/"), watch(bus; pages = ["b"])
    put("a/1", 1, 2)
    put("b", 3)
    put("a/2", 4, 5)
    @test [event.name for event in Iterators.take(all, 3)] == ["a/1", "b", "a/2"]
    @test next!(all; timeout = 0) === nothing && poll!(all) === nothing
    found = [next!(some; timeout = 5), next!(some; timeout = 5)]
    @test [delta.name for delta in found] == ["a/1", "a/2"] && found[1].lsn < found[2].lsn
    delta = next!(one; timeout = 5)
    @test delta.kind === :patch && changes(delta) == [(0, collect(reinterpret(UInt8, UInt64[3])))]
    @test source(bus, delta.source) != "" && delta.cause == 0 && !delta.transaction
    @test abs(delta.time_ns / 1e9 - time()) < 60
    @test reinterpret(UInt64, apply!(zeros(UInt8, 1024), delta))[1] == 3
    @test_throws OutOfRange apply!(zeros(UInt8, 4), delta)
    @test occursin("patch of \"b\", 8 bytes", sprint(show, delta))
    @test stalled(all) === nothing && position(all) > 0 && occursin("Watch(\"watched\"", sprint(show, all))
    started = time()
    @test isempty(collect(watch(bus; timeout = 0.2))) && time() - started < 10
    @test watch(w -> next!(w; timeout = 0), bus) === nothing
    @test_throws ArgumentError watch(bus; prefix = "a", pages = ["b"])
    @test_throws ArgumentError watch(bus; from = :yesterday)
    @test_throws NoSuchPage watch(bus; pages = ["zzz"])
end

@testset "sparse and masked deltas, and deltas as recorded" begin
    # Bytes by hand, as the page has them.
    record(kind, body, offset) = MMSB.Record(100, 0, 1, kind, 0, 0, 0, 0, 0, offset, body)
    sparse = UInt8[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0xaa, 0xbb, 0xcc]
    @test MMSB.ranges_of(:ranges, record(0x02, sparse, 0), sparse) == [(1, [0xaa, 0xbb]), (8, [0xcc])]
    masked = UInt8[5, 0, 0, 0, 0, 0, 0, 0, 0b10110, 1, 2, 3, 4, 5]
    @test MMSB.ranges_of(:masked, record(0x03, masked, 10), masked) == [(11, [2, 3]), (14, [5])]
    for body in (sparse, masked), cut in 0:length(body)-1
        kind = body === sparse ? :ranges : :masked
        result = try MMSB.ranges_of(kind, record(0x02, body[1:cut], 0), body[1:cut]) catch error; error end
        @test result isa Corrupt
    end
end

@testset "from a snapshot nothing is missed and nothing comes twice" begin
    bus = observe("watched")
    follower = watch(bus; prefix = "a/", from = :snapshot)
    put("a/1", 10, 20)
    events = [next!(follower; timeout = 5) for _ in 1:3]
    @test [event.name for event in events] == ["a/1", "a/2", "a/1"]
    @test events[1] isa Image && value(events[1]) == [1, 2] && events[3] isa Delta
    @test next!(follower; timeout = 0) === nothing
end

@testset "pages that come later join their prefix, and leave it" begin
    bus = observe("watched")
    follower = watch(bus; prefix = "late/")
    mmsb("create", "watched", "--if-missing", "--pages", "late/1::u64[2]", "other::u64[2]")
    put("other", 1)
    put("late/1", 7)
    events = collect(Iterators.take(follower, 2))
    @test [(event.kind, event.name) for event in events] == [(:create, "late/1"), (:patch, "late/1")]
end

@testset "who is overtaken is told, and goes on" begin
    bus = observe("watched")
    follower = watch(bus; pages = ["b"])
    words = join(1:128, ",")
    for _ in 1:120
        mmsb("write", "watched", "b", "--as", "u64", words)
    end
    gap = next!(follower; timeout = 5)
    @test gap isa Gap && gap.to > gap.from && occursin("Gap(", sprint(show, gap))
    put("b", 99)
    events = collect(Iterators.takewhile(event -> !(event isa Delta && changes(event)[1][2][1] == 99), follower))
    @test all(event isa Delta for event in events)
    @test position(follower) >= gap.to
    # A position that was never one is a gap, too, not a crash.
    lost = watch(bus; from = published_lsn(bus) - 7)
    @test try next!(lost; timeout = 0) catch error; error end isa Union{Nothing,Gap,Delta,Corrupt}
end
