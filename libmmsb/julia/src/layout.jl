# Offsets of docs/layout.md, and nothing else: this page is all that the direct face knows of a bus.

const MAGIC = 0x45474150_42534d4d           # "MMSBPAGE", little-endian
const LAYOUT_MAJOR = 0x0000_0001
const LAYOUT_MINOR = 0x0000_0002
const LAYOUT_HASH = 0x2673_2604_073a_00ec
const FEATURES_KNOWN = 0x0000_0000_0000_0000

const STATE_READY = 0x5245_4459
const STATE_ABANDONED = 0x474f_4e45

# PagesHeader
const AT_LAYOUT_MAJOR = 8
const AT_LAYOUT_MINOR = 12
const AT_FEATURES = 16
const AT_LAYOUT_HASH = 24
const AT_STATE = 32
const AT_BUS_ID = 40
const AT_INCARNATION = 56
const AT_CREATED_NS = 64
const AT_LEN_MAX = 72
const AT_PAGES_MAX = 80
const AT_NAMES_SLOTS = 84
const AT_SOURCES_MAX = 88
const AT_RING_SLOTS = 92
const AT_DIRECTORY_AT = 96
const AT_NAMES_AT = 104
const AT_SOURCES_AT = 112
const AT_RING_AT = 128
const AT_ARENA_AT = 136
const AT_NAME = 248
const AT_LEN = 1024
const AT_PUBLISHED = 1152
const AT_OVERWRITE_FLOOR = 1408
const AT_DURABLE_LSN = 2048
const HEADER_BYTES = 4096
const SLAB_BYTES = 1 << 21
const NAME_BYTES = 256

# Page directory and name directory
const BLOCK_BITS = 36
const BLOCK_MASK = (UInt64(1) << BLOCK_BITS) - 1
const BLOCK_UNIT = 32
const NAME_REMOVED = UInt64(1)
const NAME_BY_ID = UInt64(1) << 63
const NAME_TAG_BITS = 27

# BlockHeader
const BLOCK_LSN = 8
const BLOCK_STATE = 16
const BLOCK_SIZE = 24
const BLOCK_SHAPE = 28
const BLOCK_HEADER = 32
const BLOCK_LIVE = 0x02
const BLOCK_RETIRED = 0x03

# CellHeader and VersionHeader
const CELL_HEADER = 32
const VERSION_EPOCH = 8
const VERSION_HEADER = 16
const VERSION_ALIGN = 64

# ColdHeader; the names of its fields are in `cold`
const COLD_HEADER = 32
const COLD_BYTES_MAX = 65_791                # name, schema and metadata together
const PAGE_NAME_MAX = 255

# SourceEntry
const SOURCE_ENTRY = 64
const SOURCE_NAME = 16
const SOURCE_NAME_MAX = 48

# Ring
const SLOT_BYTES = 64
const SLOT_FIRST_BODY = 32
const SLOT_BODY = 56
const SLOT_CLAIMED = 0x01
const SLOT_READY = 0x02
const SLOT_PADDING = 0x03
const SLOT_CONTINUATION = 0x04
const SLOT_INNER = 0x05
const FLAG_CAUSE = 0x01
const FLAG_BLOCKS = 0x02
const FLAG_TRANSACTION = 0x04

const PAGE_BYTES_MAX = 1 << 30

"Where things are, copied once from the header and checked against the object."
struct Geometry
    len_max::Int
    pages_max::Int
    names_slots::Int
    sources_max::Int
    ring_slots::Int
    directory_at::Int
    names_at::Int
    sources_at::Int
    ring_at::Int
    arena_at::Int
    created_ns::UInt64
    incarnation::UInt64
end

"`count` things of `each` bytes at `at` lie behind `from` and ahead of `arena_at`; returns where they begin and end."
function check_table(what::String, from::Int, at::UInt64, count::Int, each::Int, arena_at::Int)
    count > 0 && from <= at <= arena_at && at % 64 == 0 && count * each <= arena_at - Int(at) ||
        throw(Corrupt("$what lie where they cannot be (at $at, $count of them)"))
    return Int(at), Int(at) + count * each
end

"Reads and checks a header. `bytes` are backed by memory; at least `HEADER_BYTES`."
function read_geometry(base::Ptr{UInt8}, bytes::Int, path::String)
    word(base, 0) == MAGIC || throw(WrongLayout("$path is no bus"))
    major, minor = half(base, AT_LAYOUT_MAJOR), half(base, AT_LAYOUT_MINOR)
    major == LAYOUT_MAJOR ||
        throw(WrongLayout("$path has layout $major.$minor, this reader knows $(Int(LAYOUT_MAJOR)).x"))
    features = word(base, AT_FEATURES)
    features & ~FEATURES_KNOWN == 0 ||
        throw(WrongLayout("$path uses features 0x$(string(features, base = 16)) that this reader does not know"))
    hash = word(base, AT_LAYOUT_HASH)
    minor >= LAYOUT_MINOR || throw(WrongLayout("$path has layout $major.$minor, this reader needs 1.2"))
    # A greater minor may have extended a struct, and has another hash then; what this reader knows is there all the
    # same.
    minor > LAYOUT_MINOR || hash == LAYOUT_HASH || throw(WrongLayout(
        "$path has layout hash 0x$(string(hash, base = 16)), this reader knows 0x$(string(LAYOUT_HASH, base = 16))"))
    state = half(base, AT_STATE)
    state == STATE_ABANDONED && throw(BusGone("$path was replaced by a rebuild of its bus"))
    state == STATE_READY || throw(Initialising("$path is not ready (state 0x$(string(state, base = 16)))"))

    len_max = word(base, AT_LEN_MAX)
    HEADER_BYTES <= len_max <= UInt64(1) << 41 && len_max % SLAB_BYTES == 0 ||
        throw(Corrupt("len_max of $path is $len_max"))
    len = word(base, AT_LEN)
    len <= len_max || throw(Corrupt("len of $path is $len, more than its len_max"))
    backed = Int(min(len, UInt64(bytes)))
    pages_max = Int(half(base, AT_PAGES_MAX))
    names_slots = Int(half(base, AT_NAMES_SLOTS))
    sources_max = Int(half(base, AT_SOURCES_MAX))
    ring_slots = Int(half(base, AT_RING_SLOTS))
    ispow2(names_slots) || throw(Corrupt("names_slots of $path is $names_slots, no power of two"))
    ispow2(ring_slots) && 64 <= ring_slots <= 1 << 24 || throw(Corrupt("ring_slots of $path is $ring_slots"))
    arena_at = word(base, AT_ARENA_AT)
    HEADER_BYTES <= arena_at <= backed && arena_at % SLAB_BYTES == 0 || throw(Corrupt("arena_at of $path is $arena_at"))
    arena = Int(arena_at)
    # In this order in the object, each behind the one before.
    directory_at, stop = check_table("page directory", HEADER_BYTES, word(base, AT_DIRECTORY_AT), pages_max, 8, arena)
    names_at, stop = check_table("names", stop, word(base, AT_NAMES_AT), names_slots, 8, arena)
    sources_at, stop = check_table("sources", stop, word(base, AT_SOURCES_AT), sources_max, SOURCE_ENTRY, arena)
    ring_at, _ = check_table("ring slots", stop, word(base, AT_RING_AT), ring_slots, SLOT_BYTES, arena)
    return Geometry(Int(len_max), pages_max, names_slots, sources_max, ring_slots, directory_at, names_at, sources_at,
        ring_at,
                    arena, word(base, AT_CREATED_NS), word(base, AT_INCARNATION))
end
