# Records of the ring, decoded from private copies of their slots.

const KINDS = [:patch, :ranges, :masked, :swap, :create, :destroy, :describe, :source, :mark]

"""
    Delta

One delta of a bus: `lsn`, `page` (its number) and `generation`, `name` of the page (`""` if it has none), `kind`
(`:patch`, `:ranges`, `:masked`, `:swap`, `:create`, `:destroy`, `:describe`, `:source`, `:mark`), `source` (a number,
see [`source`](@ref)), `cause` (LSN of the delta that led to it, 0: none), `time_ns` (since 1970, to about a
millisecond), `transaction` (part of one). What it changes: [`apply!`](@ref), or `changes(delta)`.
"""
struct Delta
    lsn::UInt64
    page::Int
    generation::UInt32
    name::String
    kind::Symbol
    source::Int
    cause::UInt64
    time_ns::UInt64
    transaction::Bool
    changes::Vector{Tuple{Int,Vector{UInt8}}}
    bytes::Vector{UInt8}                    # a mark's
end

"""
    Gap

The subscriber was overtaken: deltas from LSN `from` up to, not including, `to` are lost to it. Read the pages anew,
then go on with the deltas that are newer than what was read.
"""
struct Gap
    from::UInt64
    to::UInt64
end

Base.show(io::IO, delta::Delta) = print(io, "Delta(", delta.lsn, ", ", delta.kind, " of ",
    isempty(delta.name) ? "page $(delta.page)" : repr(delta.name), ", ",
    sum(Int[length(bytes) for (_, bytes) in delta.changes]), " bytes)")
Base.show(io::IO, gap::Gap) = print(io, "Gap(", gap.from, " to ", gap.to, ")")

"A record as it stands in its slots."
struct Record
    lsn::UInt64
    page::Int
    generation::UInt32
    kind::UInt8
    source::Int
    time::UInt32
    flags::UInt8
    cause::UInt64
    block::UInt64                           # first of the block pair, 0: none
    offset::Int
    body::Vector{UInt8}
end

"Slots of a record whose body has so many bytes."
record_slots(body::Int) = 1 + cld(max(body - SLOT_FIRST_BODY, 0), SLOT_BODY)

"Decodes the record that begins at byte `at` (from 0) of copied slots, and says how many slots it has."
function decode_record(slots::Vector{UInt8}, at::Int, stop::Int, lsn::UInt64)
    corrupt(why) = throw(Corrupt("the record at LSN $lsn $why"))
    len = Int(little(UInt32, slots, at + 20))
    count = record_slots(len)
    count * SLOT_BYTES <= stop - at || corrupt("is longer than its slots")
    body = Vector{UInt8}(undef, len)
    done = min(len, SLOT_FIRST_BODY)
    copyto!(body, 1, slots, at + 33, done)
    for slot in 1:count-1
        part = min(len - done, SLOT_BODY)
        copyto!(body, done + 1, slots, at + slot * SLOT_BYTES + 9, part)
        done += part
    end
    flags = slots[at+26]
    flags & ~(FLAG_CAUSE | FLAG_BLOCKS | FLAG_TRANSACTION) == 0 || corrupt("has flags that this reader does not know")
    front = 0
    cause = block = UInt64(0)
    if flags & FLAG_CAUSE != 0
        len >= 8 || corrupt("ends early")
        cause = little(UInt64, body, 0)
        front = 8
    end
    if flags & FLAG_BLOCKS != 0
        len >= front + 16 || corrupt("ends early")
        block = little(UInt64, body, front)
        front += 16
    end
    front == 0 || deleteat!(body, 1:front)
    record = Record(lsn, Int(little(UInt32, slots, at + 8)), little(UInt32, slots, at + 12), slots[at+25],
                    Int(little(UInt16, slots, at + 26)), little(UInt32, slots, at + 28), flags, cause, block,
                    Int(little(UInt32, slots, at + 16)), body)
    return record, count
end

"""
    changes(delta) -> Vector of (offset, bytes)

The byte ranges that a delta writes to its page, offsets counted from 0; a `:swap` gives all of it, a `:masked` delta
its runs. Empty for deltas that change no content.
"""
changes(delta::Delta) = delta.changes

"The ranges that a record writes. `body`: of a swap, the content that was published."
function ranges_of(kind::Symbol, record::Record, body::Vector{UInt8})
    found = Tuple{Int,Vector{UInt8}}[]
    corrupt(why) = throw(Corrupt("the record at LSN $(record.lsn) $why"))
    if kind === :patch
        push!(found, (record.offset, body))
    elseif kind === :swap
        push!(found, (0, body))
    elseif kind === :ranges
        length(body) >= 8 || corrupt("ends early")
        count = Int(little(UInt32, body, 0))
        count <= (length(body) - 8) ÷ 8 || corrupt("ends early")
        at = 8 + 8 * count
        for i in 0:count-1
            offset, len = Int(little(UInt32, body, 8 + 8i)), Int(little(UInt32, body, 12 + 8i))
            len <= length(body) - at || corrupt("ends early")
            push!(found, (offset, body[at+1:at+len]))
            at += len
        end
    elseif kind === :masked
        length(body) >= 8 || corrupt("ends early")
        len = Int(little(UInt32, body, 0))
        at = 8 + cld(len, 8)
        len <= length(body) - at || corrupt("ends early")
        wanted(i) = body[9+i÷8] >> (i % 8) & 0x01 == 0x01
        first = 0
        for i in 0:len
            i < len && wanted(i) && continue
            i > first && push!(found, (record.offset + first, body[at+first+1:at+i]))
            first = i + 1
        end
    end
    return found
end

"""
    apply!(bytes, delta) -> bytes

Does to a private copy of a page what the delta did to the page. Deltas that change no content (such as `:describe`)
do nothing. Throws [`OutOfRange`](@ref) if `bytes` is too short.
"""
function apply!(bytes::DenseVector{UInt8}, delta::Delta)
    for (offset, new) in changes(delta)
        offset + length(new) <= length(bytes) ||
            throw(OutOfRange("the delta at LSN $(delta.lsn) writes behind the $(length(bytes)) bytes there are"))
        copyto!(bytes, offset + 1, new, 1, length(new))
    end
    return bytes
end
