"A schema in its published encoding."
function encode_record(name, fields)
    io = IOBuffer()
    described = isempty(fields) ? 0 : maximum(o + c * MMSB.element_size(e) for (_, o, e, c) in fields)
    write(io, b"MSCH", 0x0001, 0x0002, UInt32(described), UInt32(length(fields)), 0x0000, UInt16(sizeof(name)), name)
    for (field, offset, element, count) in fields
        write(io, UInt32(offset), UInt32(count), UInt16(element), UInt16(sizeof(field)), field)
    end
    return take!(io)
end

encode_array(element, count) = (io = IOBuffer();
    write(io, b"MSCH", 0x0001, 0x0001, UInt32(count * MMSB.element_size(element)), UInt32(count), UInt16(element),
        0x0000); take!(io))

struct Inner
    price::Float64
    qty::UInt32
    flag::Bool
    bids::NTuple{2,Float32}
end

@testset "schemas decode" begin
    for element in 1:12, count in (0, 1, 3)
        schema = MMSB.decode_schema(encode_array(element, count))
        @test !MMSB.isrecord(schema) && string(schema) == "$(MMSB.ELEMENT_NAMES[element])[$count]"
    end
    bytes = encode_record("quote", [("price", 0, 10, 1), ("qty", 8, 5, 1), ("host", 12, 12, 4)])
    schema = MMSB.decode_schema(bytes)
    @test string(schema) == "quote{price:f64,qty:u32,host:char[4]}"
    @test schema.hash == MMSB.fnv1a(bytes)
    @test MMSB.decode_schema(setindex!(copy(bytes), 0x02, 5)) === nothing
    value = MMSB.decode_value(schema, UInt8[reinterpret(UInt8, [1.5]); reinterpret(UInt8, [0x00000007]); b"ab\0\0"])
    @test value === (price = 1.5, qty = 0x00000007, host = "ab") || value == (price = 1.5, qty = 0x00000007,
        host = "ab")
    @test_throws WrongSize MMSB.decode_value(schema, UInt8[1, 2])
end

@testset "no damaged schema decodes to nonsense" begin
    whole = encode_record("q", [("a", 0, 10, 1), ("b", 8, 5, 2)])
    for cut in 0:length(whole)-1
        @test_throws Corrupt MMSB.decode_schema(whole[1:cut])
    end
    for (fields, _) in ((("a", 0, 10, 1), ("a", 8, 5, 1)) => 1, (("a", 0, 10, 1), ("b", 4, 5, 1)) => 2,
                        (("a", 0, 13, 1), ("b", 8, 5, 1)) => 3, (("", 0, 1, 1), ("b", 8, 5, 1)) => 4)
        encoded = try encode_record("q", collect(fields)) catch; continue end
        @test_throws Corrupt MMSB.decode_schema(encoded)
    end
    for at in 1:length(whole), bits in (0x01, 0x80, 0xff)
        result = try MMSB.decode_schema(setindex!(copy(whole), whole[at] ⊻ bits, at)) catch error; error end
        @test result isa Union{Nothing,Schema,Corrupt}
    end
end

@testset "types are compared with schemas, field by field" begin
    good = [("price", 0, 10, 1), ("qty", 8, 5, 1), ("flag", 12, 11, 1), ("bids", 16, 9, 2)]
    check(fields) = MMSB.check_fields(Inner, MMSB.decode_schema(encode_record("", fields)))
    @test check(good) === nothing
    @test check(reverse(good)) === nothing
    @test_throws WrongSchema check(good[1:3])
    @test_throws WrongSchema check([good[1:3]; ("asks", 16, 9, 2)])
    @test_throws WrongSchema check([good[1:3]; ("bids", 20, 9, 2)])
    @test_throws WrongSchema check([good[1:3]; ("bids", 16, 9, 3)])
    @test_throws WrongSchema check([good[1:3]; ("bids", 16, 7, 1)])
    @test MMSB.check_fields(NTuple{3,Float64}, MMSB.decode_schema(encode_array(10, 3))) === nothing
    @test_throws WrongSchema MMSB.check_fields(NTuple{3,Float64}, MMSB.decode_schema(encode_array(10, 4)))
    @test_throws WrongSchema MMSB.check_fields(NTuple{3,Int64}, MMSB.decode_schema(encode_array(10, 3)))
end

@testset "a byte that is neither 0 nor 1 becomes a proper Bool" begin
    raw = zeros(UInt8, sizeof(Inner))
    raw[13] = 0x07
    GC.@preserve raw begin
        @test MMSB.load_private(Inner, pointer(raw)).flag === true
        @test MMSB.load_shared(Inner, pointer(raw)).flag === true
    end
end

@testset "paths select fields" begin
    schema = MMSB.decode_schema(encode_record("q", [("a", 0, 10, 1), ("b", 8, 5, 2)]))
    @test MMSB.select_field(schema, "a").offset == 0
    @test MMSB.select_field(schema, "b[1]").offset == 12
    for bad in ("c", "b[2]", "b[x]", "b[", "b[1]x", "", "[0]", "b[99999999999]")
        @test_throws NoSuchField MMSB.select_field(schema, bad)
    end
    @test MMSB.select_field(MMSB.decode_schema(encode_array(10, 3)), "[2]").offset == 16
end
