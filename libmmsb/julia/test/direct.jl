struct Quote
    price::Float64
    qty::UInt32
    bids::NTuple{4,Float64}
    host::NTuple{16,UInt8}
end

struct OtherQuote
    price::Float64
    qty::Int32
    bids::NTuple{4,Float64}
    host::NTuple{16,UInt8}
end

const ALL = [("u8", UInt8), ("i8", Int8), ("u16", UInt16), ("i16", Int16), ("u32", UInt32), ("i32", Int32), ("u64",
    UInt64),
             ("i64", Int64), ("f32", Float32), ("f64", Float64)]

mmsb("create", "direct", "--pages", "q::quote{price:f64,qty:u32,bids:f64[4],host:char[16]}", "cell:1024x4:u64[128]",
    "raw:100",
     "flags::bool[4]", "text::char[8]", "tank/1::f64[2]", "tank/2::f64[2]", ("all/$e::$e[3]" for (e, _) in ALL)...)
mmsb("write", "direct", "q", "price=101.5,qty=7,host=venus")
mmsb("write", "direct", "q", "--field", "bids[2]", "2.5")

@testset "pages are found and shown" begin
    bus = observe("direct")
    @test keys(bus) == sort!(["q", "cell", "raw", "flags", "text", "tank/1", "tank/2", ("all/$e" for (e, _) in ALL)...])
    @test length(bus) == 17
    @test haskey(bus, "q") && !haskey(bus, "Q")
    @test_throws NoSuchPage bus["nothing"]
    @test get(bus, "nothing", 5) == 5
    @test_throws NoSuchPage bus[99999999]
    @test_throws NoSuchPage bus[60000]
    @test bus[bus["q"].index].name == "q"
    @test Dict(bus)["tank/1"] isa ObservedPage
    @test [name for (name, _) in bus] == keys(bus)
    @test occursin("quote{price:f64", sprint(show, MIME("text/plain"), bus))
    @test sprint(show, bus["q"]) == "ObservedPage(\"q\", 64 bytes, quote{price:f64,qty:u32,bids:f64[4],host:char[16]})"
    @test sprint(show, bus) == "Observer(\"direct\")"
    @test name(bus["q"]) == "q" && schema(bus["raw"]) === nothing && isempty(metadata(bus["q"]))
    @test durable_lsn(bus) == 0 && published_lsn(bus) > 0
end

@testset "pages are read" begin
    bus = observe("direct")
    q = bus["q"]
    @test sizeof(q) == 64 && length(read(q)) == 64
    quoted = read(q, Quote)
    @test quoted.price == 101.5 && quoted.qty == 7 && quoted.bids == (0.0, 0.0, 2.5, 0.0)
    @test_throws WrongSchema read(q, OtherQuote)
    @test_throws WrongSchema read(q, Float64)
    @test_throws ArgumentError read(q, String)
    @test q[:price] === 101.5 && q["bids[2]"] === 2.5 && q[:bids] == [0, 0, 2.5, 0] && q["host"] == "venus"
    @test_throws NoSuchField q[:nope]
    @test_throws NoSuchField q["bids[4]"]
    @test value(q) == (price = 101.5, qty = 0x7, bids = [0, 0, 2.5, 0], host = "venus")
    @test collect(keys(q)) == [:price, :qty, :bids, :host] && haskey(q, :qty)
    @test query_page(bus, "q").qty == 7 && query_page(bus, "q", Quote).qty == 7
    @test version(q).epoch == 2 && version(q).lsn < published_lsn(bus) + 1000
    raw = bus["raw"]
    @test value(raw) == zeros(UInt8, 100) && isempty(keys(raw))
    @test_throws NoSchema raw[:x]
    @test read(raw, NTuple{100,UInt8}) == ntuple(_ -> 0x00, 100)
    @test_throws WrongSize read(raw, NTuple{99,UInt8})
    @test_throws WrongSize read!(zeros(UInt8, 99), raw)
    @test_throws WrongSize read!(zeros(UInt8, 101), raw)
    @test_throws ArgumentError read!(Array{Bool}(undef, 100), raw)
    @test_throws ArgumentError read!(Vector{Any}(undef, 100), raw)
    mmsb("write", "direct", "flags", "--as", "hex", "01 00 ff 02")
    @test value(bus["flags"]) == [true, false, true, true] && read(bus["flags"], Vector{Bool}) == [true, false, true,
        true]
    @test read(bus["flags"], NTuple{4,Bool}) === (true, false, true, true)
    mmsb("write", "direct", "text", "--as", "text", "grüße")
    @test value(bus["text"]) == "grüße"
end

@testset "every element type is decoded" begin
    bus = observe("direct")
    for (element, T) in ALL
        mmsb("write", "direct", "all/$element", "--as", element, "1,2,100")
        page = bus["all/$element"]
        @test value(page) == T[1, 2, 100] && eltype(value(page)) === T
        @test read(page, NTuple{3,T}) === (T(1), T(2), T(100))
        @test read(page, Vector{T}) == T[1, 2, 100]
        @test page["[2]"] === T(100)
        @test withview(collect, page, T) == T[1, 2, 100]
        @test_throws WrongSchema read(page, Vector{T === UInt8 ? Int8 : UInt8})
    end
end

@testset "cells are read, in their newest version" begin
    bus = observe("direct")
    cell = bus["cell"]
    words = zeros(UInt64, 128)
    for n in 1:10
        mmsb("write", "direct", "cell", "--as", "u64", "--offset", "1016", "$n")
        seen = read_version!(words, cell)
        @test words[128] == n && seen.epoch == n && seen.retries == 0
        @test last(read(cell, Vector{UInt64})) == n
        @test snapshot(bus, [cell])[1].version.epoch == n
    end
end

@testset "a view is checked, bounded, and outlives everything harmlessly" begin
    bus = observe("direct")
    mmsb("write", "direct", "tank/1", "--as", "f64", "1.5,2.5")
    page = bus["tank/1"]
    @test withview(sum, page, Float64) === 4.0
    @test withview(v -> v[1] + length(v), page, Float64) === 3.5
    @test withview(v -> v[1].price, bus["q"], Quote) === 101.5
    @test withview(v -> size(v), page, UInt8) === (16,)
    @test_throws BoundsError withview(v -> v[3], page, Float64)
    @test_throws BoundsError withview(v -> (@inbounds v[0]), page, Float64)
    @test_throws WrongSchema withview(sum, page, Int64)
    @test_throws WrongSchema withview(v -> 1, bus["q"], OtherQuote)
    @test_throws ErrorException withview(v -> error("of mine"), page, Float64)
    kept = withview(identity, page, Float64)
    close(bus)
    bus = page = nothing
    GC.gc()
    @test kept[2] === 2.5
    @test_throws Exception kept[1] = 2.0
end

@testset "a cut of several pages" begin
    bus = observe("direct")
    images = snapshot(bus, ["q", bus["cell"], "tank/1"])
    @test [image.name for image in images] == ["q", "cell", "tank/1"]
    @test images[1][:price] === 101.5 && read(images[1], Quote).qty == 7 && value(images[3]) == [1.5, 2.5]
    @test sizeof(images[2]) == 1024 && version(images[2]).epoch == 10
    @test snapshot(bus, []) == []
    @test_throws ArgumentError snapshot(observe("direct"), [bus["q"]])
    @test occursin("Image(\"q\", 64 bytes", sprint(show, images[1]))
end

@testset "reads allocate nothing" begin
    bus = observe("direct")
    page, cell, words = bus["q"], bus["cell"], zeros(UInt64, 128)
    prices(page, n) = (sum = 0.0; for _ in 1:n; sum += read(page, Quote).price; end; sum)
    copies(words, page, n) = (for _ in 1:n; read!(words, page); end; nothing)
    views(page, n) = (sum = 0.0; for _ in 1:n; sum += withview(v -> v[1] + v[2], page, Float64); end; sum)
    tank = bus["tank/1"]
    for run in (() -> prices(page, 1000), () -> copies(words, cell, 1000), () -> views(tank, 1000))
        run()
    end
    prices(page, 10); copies(words, cell, 10); views(tank, 10)
    # What is left is the Float64 that the closing brace of the measurement boxes.
    @test (@allocated prices(page, 1000)) <= 16
    @test (@allocated copies(words, cell, 1000)) == 0
    @test (@allocated views(tank, 1000)) <= 16
    times = [(t = time_ns(); copies(words, cell, 1000); (time_ns() - t) / 1000) for _ in 1:21]
    println("direct read of 1 KiB: ", round(sort(times)[11]; digits = 1), " ns, median of 21 runs of 1000")
end

@testset "closing, deleting, removing" begin
    bus = observe("direct")
    q = bus["q"]
    close(bus)
    @test !isopen(bus)
    @test_throws Closed read(q)
    @test_throws Closed keys(bus)
    @test sprint(show, MIME("text/plain"), bus) == "Observer of bus \"direct\", closed"
    @test observe(bus -> bus["q"][:price], "direct") === 101.5
    @test_throws ErrorException observe(bus -> error("x"), "direct")
end

@testset "what is no bus is refused, by type" begin
    @test_throws MissingBus observe("nowhere")
    @test_throws MissingBus observe("direct"; dir = "/nonexistent")
    for bad in ("", "a/b", "a\0b", "x"^300)
        @test_throws BadName observe(bad)
    end
    @test_throws ArgumentError observe("direct"; patience = -1)
    path(name) = joinpath(DIR, "mmsb.$name.pages")
    write(path("empty"), "")
    @test_throws WrongLayout observe("empty")
    write(path("short"), zeros(UInt8, 4095))
    @test_throws WrongLayout observe("short")
    write(path("zeros"), zeros(UInt8, 8192))
    @test_throws WrongLayout observe("zeros")
    symlink(path("direct"), path("link"))
    @test_throws WrongLayout observe("link")
    mkdir(path("directory"))
    @test_throws WrongLayout observe("directory")
    run(`mkfifo $(path("fifo"))`)
    @test_throws WrongLayout observe("fifo")
    if ccall(:geteuid, Cint, ()) != 0
        cp(path("direct"), path("secret"))
        chmod(path("secret"), 0o000)
        @test_throws AccessDenied observe("secret")
    end
    @test occursin("there is no bus", sprint(showerror, try observe("nowhere") catch error; error end))
end

@testset "the bus outlives its readers" begin
    @test iscurrent(observe("direct"))
    mmsb("create", "removed")
    removed = observe("removed")
    mmsb("rm", "removed")
    @test !iscurrent(removed) && isempty(keys(removed))
    before = stat(joinpath(DIR, "mmsb.direct.pages"))
    for _ in 1:50
        observe("direct")["q"][:price]
    end
    GC.gc()
    mappings = count(occursin("mmsb.direct.pages", line) for line in eachline("/proc/self/maps"))
    @test mappings < 25
    run(julia_process("-e", "using MMSB; observe(\"direct\")[\"q\"][:price] == 101.5 || exit(1)"))
    after = stat(joinpath(DIR, "mmsb.direct.pages"))
    @test (after.inode, after.size, after.mode) == (before.inode, before.size, before.mode)
    @test observe("direct")["q"][:price] === 101.5
end
