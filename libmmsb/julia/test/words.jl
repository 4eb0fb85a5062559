using InteractiveUtils: code_llvm, code_native

@testset "atomic loads, fence and copy give what is there" begin
    words = UInt64[0x0123_4567_89ab_cdef, 0xffff_ffff_0000_0001]
    GC.@preserve words begin
        p = Ptr{UInt8}(pointer(words))
        @test MMSB.word(p, 0) === words[1]
        @test MMSB.word(p, 8) === words[2]
        @test MMSB.half(p, 8) === 0x0000_0001
        @test MMSB.half(p, 12) === 0xffff_ffff
        @test MMSB.load_relaxed(p) === 0xef
        @test MMSB.load_relaxed(Ptr{UInt16}(p + 2)) === 0x89ab
        @test MMSB.load_acquire(Ptr{UInt32}(p + 4)) === 0x0123_4567
        @test MMSB.fence_acquire() === nothing
        copy = zeros(UInt8, 16)
        GC.@preserve copy MMSB.copy_racing!(pointer(copy), p, 16)
        @test reinterpret(UInt64, copy) == words
    end
end

@testset "an atomic load is one plain load, and the fence no instruction" begin
    text = sprint(io -> code_native(io, MMSB.word, (Ptr{UInt8}, Int)))
    @test occursin("mov", text)
    @test !occursin("lock", text) && !occursin("mfence", text)
    ir = sprint(io -> code_llvm(io, MMSB.word, (Ptr{UInt8}, Int)))
    @test occursin(r"load atomic i64, .* acquire, align 8", ir)
    @test occursin("fence acquire", sprint(io -> code_llvm(io, MMSB.fence_acquire, ())))
end

@testset "the path of the other Julia reads as Julia" begin
    # Both paths are in one file; the one that this version does not take is at least parsed.
    source = read(joinpath(PACKAGE, "src", "words.jl"), String)
    @test occursin("VERSION >= v\"1.10\"", source)
    parsed = Meta.parse("begin\n" * source * "\nend")
    @test parsed isa Expr && !any(part -> part isa Expr && part.head === :error, parsed.args)
end

@testset "hashes are those of the page" begin
    @test MMSB.fnv1a(UInt8[]) === 0xcbf2_9ce4_8422_2325
    @test MMSB.fnv1a(codeunits("a")) === 0xaf63_dc4c_8601_ec8c
    @test MMSB.fnv1a(codeunits("foobar")) === 0x8594_4171_f739_67e8
    @test MMSB.mix(UInt64(0)) === UInt64(0)
end
