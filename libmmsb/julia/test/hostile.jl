# Copies of a segment, damaged: every outcome is a value or a typed error, soon.

using Random

mmsb("create", "victim", "--ring", "64K", "--size", "64M", "--pages-max", "64", "--names-max", "64", "--pages",
     "q::quote{price:f64,qty:u32,bids:f64[4],host:char[16]}", "cell:256x4:u64[32]", "raw:5000")
mmsb("write", "victim", "q", "price=1.5,host=venus")
mmsb("write", "victim", "cell", "--as", "u64", "1,2,3")

const WHOLE = read(joinpath(DIR, "mmsb.victim.pages"))

"Everything that the direct face can do, on a copy of those bytes. Only typed errors are caught."
function provoke(bytes::Vector{UInt8})
    write(joinpath(DIR, "mmsb.copy.pages"), bytes)
    kinds = Set{Any}()
    attempt(f) = try
        f()
    catch error
        error isa MMSBError || rethrow()
        push!(kinds, typeof(error))
        nothing
    end
    bus = attempt(() -> observe("copy"; patience = 0.001))
    bus === nothing && return kinds
    names = attempt(() -> keys(bus))
    for name in ("q", "cell", "raw", "none")
        page = attempt(() -> get(bus, name, nothing))
        page === nothing && continue
        attempt(() -> page.size <= 1 << 24 ? value(page) : nothing)
        attempt(() -> page[:bids])
        attempt(() -> withview(sum, page, UInt8))
        attempt(() -> page.size <= 1 << 24 ? snapshot(bus, [page]) : nothing)
        attempt(() -> metadata(page))
    end
    for index in 0:3
        attempt(() -> bus[index])
    end
    attempt(() -> source(bus, 0))
    attempt(() -> sprint(show, MIME("text/plain"), bus))
    for from in (:now, :snapshot, 1024, 0)
        follower = attempt(() -> watch(bus; from = from))
        follower === nothing && continue
        for _ in 1:50
            attempt(() -> poll!(follower)) === nothing && break
        end
    end
    close(bus)
    return kinds
end

patched(at, new) = (bytes = copy(WHOLE); raw = reinterpret(UInt8, [new]); bytes[at+1:at+length(raw)] = raw; bytes)

@testset "the copy as it is" begin
    @test provoke(WHOLE) ⊆ Set([NoSchema, NoSuchPage, NoSuchField])
end

@testset "each field of the header, with values that hurt" begin
    for at in [0:8:40; 56:8:144; 1024; 1032; 1152; 1280; 1408; 1416], new in (UInt64(0), typemax(UInt64),
        UInt64(1) << 47, UInt64(4097),
                                                                             UInt64(1) << 31)
        @test provoke(patched(at, new)) isa Set
    end
    @test WrongLayout in provoke(patched(0, UInt64(0)))
    @test WrongLayout in provoke(patched(8, UInt32(2)))
    @test WrongLayout in provoke(patched(16, UInt64(1)))
    @test WrongLayout in provoke(patched(24, UInt64(1)))
    @test Initialising in provoke(patched(32, UInt32(0)))
    @test BusGone in provoke(patched(32, UInt32(0x474f4e45)))
    @test Corrupt in provoke(patched(72, typemax(UInt64)))
    @test Corrupt in provoke(patched(84, UInt32(3)))
    @test Corrupt in provoke(patched(92, UInt32(0xffffffff)))
    @test Corrupt in provoke(patched(96, typemax(UInt64) - 7))
    @test Corrupt in provoke(patched(128, UInt64(1) << 40))
end

@testset "objects that are cut short" begin
    for bytes in (0, 4095, 4096, 8192, length(WHOLE) ÷ 2, length(WHOLE) - 2^21, length(WHOLE) - 1)
        @test provoke(WHOLE[1:bytes]) isa Set
    end
    # The header promises more than there is.
    @test provoke(patched(1024, UInt64(1) << 26)) isa Set
end

@testset "directories, blocks and names that lead elsewhere" begin
    word(at) = reinterpret(UInt64, WHOLE[at+1:at+8])[1]
    directory, names, ring = Int(word(96)), Int(word(104)), Int(word(128))
    names_slots = Int(word(80) >> 32)
    for block in (UInt64(1), UInt64(1) << 35, (UInt64(1) << 36) - 1, word(136) >> 5), index in 0:2
        @test provoke(patched(directory + 8index, UInt64(1) << 36 | block)) isa Set
    end
    for slot in 0:names_slots-1
        entry = word(names + 8slot)
        entry <= 1 && continue
        for new in (entry ⊻ 1, entry & ~((UInt64(1) << 36) - 1) | (UInt64(1) << 36) - 1, entry ⊻ UInt64(1) << 63)
            @test provoke(patched(names + 8slot, new)) isa Set
        end
        cold = Int(entry & (UInt64(1) << 36 - 1)) * 32 + 32
        for field in (0, 4, 8, 16, 20, 24, 33, 40, 48), new in (UInt32(0), typemax(UInt32), UInt32(300))
            @test provoke(patched(cold + field, new)) isa Set
        end
    end
    # A directory without an end: every name slot is taken, by a wrong name.
    full = copy(WHOLE)
    for slot in 0:names_slots-1
        full[names+8slot+1:names+8slot+8] = reinterpret(UInt8, [UInt64(1)])
    end
    @test provoke(full) isa Set
    for index in 0:2
        block = Int(word(directory + 8index) & (UInt64(1) << 36 - 1)) * 32
        for (field, new) in ((0, UInt64(1)), (0, typemax(UInt64)), (24, typemax(UInt32)), (28, typemax(UInt32)), (28,
            0x0000_ff00),
                             (32, typemax(UInt64)), (32, UInt64(3)))
            @test provoke(patched(block + field, new)) isa Set
        end
    end
    for slot in 0:40, field in (0, 8, 20, 24, 25), new in (UInt64(0), typemax(UInt64), UInt64(0x0000_0001_0010_0002))
        slot % 8 == 0 || field == 0 || continue
        @test provoke(patched(ring + 64slot + field, new)) isa Set
    end
end

@testset "random damage" begin
    seed = parse(Int, get(ENV, "MMSB_SEED", string(rand(1:10^6))))
    println("hostile.jl: MMSB_SEED=", seed)
    random = MersenneTwister(seed)
    used = findall(!iszero, WHOLE)
    for round in 1:150
        bytes = copy(WHOLE)
        for _ in 1:rand(random, 1:20)
            bytes[rand(random, used)] = rand(random, UInt8)
        end
        @test provoke(bytes) isa Set
    end
end
