# libmmsb.so: found and checked when the full face is first used, so that the direct one needs no library.

const ABI_VERSION = 0x0000_0001

const FUNCTIONS = (
    :abi_version, :check_abi, :version, :last_error, :status_name,
    :bus_create, :bus_attach, :bus_open_or_create, :bus_close, :bus_unlink, :bus_list, :bus_get_info, :bus_get_stats,
    :bus_counters, :bus_recover, :bus_check, :bus_source_name, :bus_pages, :bus_snapshot, :bus_set_durability,
    :bus_log_status, :bus_checkpoint, :bus_durable_lsn, :wait_durable,
    :list_len, :list_close, :list_name, :list_page, :list_meta, :list_image, :list_counter, :list_change,
    :list_change_range, :list_diff,
    :page_create, :page_open, :page_open_id, :page_open_or_create, :page_close, :page_destroy, :page_rename,
    :page_set_schema, :page_set_meta, :page_describe, :page_get_version, :page_read_range, :page_read_after,
    :page_write, :page_patch, :page_patch_caused, :page_patch_many, :page_write_masked,
    :batch_open, :batch_patch, :batch_patch_many, :batch_mark, :batch_cause, :batch_commit, :batch_close,
    :transaction_begin, :transaction_read, :transaction_patch, :transaction_patch_many, :transaction_mark,
    :transaction_cause, :transaction_commit, :transaction_abandon,
    :subscribe, :subscription_next, :subscription_get_stats, :subscription_close,
    :log_open, :log_close, :log_get_bounds, :log_state_at, :log_diff, :log_history,
    :state_close, :state_get_info, :state_pages, :state_page_by_id, :state_create_bus,
)

# A pointer for each function, so that a call is one load and one jump.
@eval mutable struct Library
    loaded::Bool
    path::String
    $((:($name::Ptr{Cvoid}) for name in FUNCTIONS)...)
    Library() = new(false, "")
end

const LIB = Library()
const LIB_LOCK = ReentrantLock()

"Makes sure that the library is there and fits."
@inline need_library() = LIB.loaded ? nothing : load_library()

@noinline function load_library()
    lock(LIB_LOCK) do
        LIB.loaded && return nothing
        path, handle = open_library()
        # Asked of the library before anything else of it is believed.
        speaks = Libdl.dlsym_e(handle, :mmsb_abi_version)
        speaks == C_NULL && throw(LibraryMissing("$path has no mmsb_abi_version: it is no libmmsb"))
        found = ccall(speaks, UInt32, ())
        check = Libdl.dlsym_e(handle, :mmsb_check_abi)
        fits = check == C_NULL ? found == ABI_VERSION : ccall(check, Int32, (UInt32,), ABI_VERSION) == 0
        fits || throw(LibraryMissing(
            "$path speaks ABI version $found, and this package $(Int(ABI_VERSION)): they do not belong together"))
        for name in FUNCTIONS
            address = Libdl.dlsym_e(handle, Symbol(:mmsb_, name))
            address == C_NULL && throw(LibraryMissing("$path lacks mmsb_$name: it is older than this package"))
            setfield!(LIB, name, address)
        end
        LIB.path = path
        LIB.loaded = true
        return nothing
    end
end

function open_library()
    named = get(ENV, "MMSB_LIBRARY", "")
    tried = isempty(named) ? ["libmmsb.so.1", "libmmsb"] : [named]
    why = ""
    for path in tried
        # Never unloaded: handles and finalizers hold on to it until the process ends.
        try
            handle = Libdl.dlopen(path, Libdl.RTLD_NOW | Libdl.RTLD_LOCAL)
            return Libdl.dlpath(handle), handle
        catch error
            error isa ErrorException || rethrow()
            why = error.msg
        end
    end
    throw(LibraryMissing(string(
        "libmmsb.so cannot be loaded (", why, "). Install it (`scripts/install`), or set ",
        "MMSB_LIBRARY to its path. Reading needs no library: see `observe`")))
end

"""
    library_version() -> String

Version of the `libmmsb.so` in use, and where it is. Throws [`LibraryMissing`](@ref).
"""
function library_version()
    need_library()
    return string(unsafe_string(Ptr{UInt8}(ccall(LIB.version, Ptr{UInt8}, ()))), " (", LIB.path, ")")
end

const MISSING = Int32(-20)
const EXISTS = Int32(-23)

const STATUS = Dict{Int32,Any}(
    -1 => ArgumentError, -2 => Closed, -3 => Closed, -4 => WrongThread, -5 => Busy, -6 => ReadOnly, -7 => OtherBus,
    -8 => LibraryMissing, -9 => InternalError, -10 => InternalError,
    -20 => NoSuchPage, -21 => PageGone, -22 => BusGone, -23 => PageExists, -24 => BadName, -25 => BadConfig,
    -26 => AccessDenied, -27 => WrongLayout, -28 => Corrupt, -29 => BusFull, -30 => Initialising, -31 => Forked,
    -32 => OutOfRange, -33 => WrongSchema, -34 => BadSchema, -35 => NoSchema, -36 => TooLarge,
    -40 => TimedOut, -41 => Backpressure, -42 => NoSupervisor, -43 => NotDurable, -44 => Conflict, -45 => Contended,
    -46 => Stalled, -47 => NotLoaned, -48 => TooManyHeld,
    -60 => DamagedLog, -61 => DamagedCheckpoint, -62 => NotInLog, -63 => Diverged, -64 => SupervisorFailed,
    -65 => IOFailure, -66 => Failed)

"Throws what a status means. `missing_is` and `exists_is` say what the call was about."
@inline check(status::Int32; missing_is = NoSuchPage, exists_is = PageExists) =
    status >= 0 ? status : throw_status(status, missing_is, exists_is)

@noinline function throw_status(status::Int32, missing_is, exists_is)
    # The text is this thread's, and nothing in between has given the thread away.
    message = unsafe_string(Ptr{UInt8}(ccall(LIB.last_error, Ptr{UInt8}, ())))
    type = status == MISSING ? missing_is : status == EXISTS ? exists_is : get(STATUS, status, Failed)
    isempty(message) && (message = unsafe_string(Ptr{UInt8}(ccall(LIB.status_name, Ptr{UInt8}, (Int32,), status))))
    throw(type(message))
end

# The structs of mmsb.h. Handles are structs of one 64-bit number, which are passed like that number; so is a page id.

struct CBusOptions
    struct_size::UInt32
    abi::UInt32
    flags::UInt32
    durability::UInt32
    dir::Ptr{UInt8}
    source::Ptr{UInt8}
    log_dir::Ptr{UInt8}
    timeout_ns::UInt64
    flush_ns::UInt64
    bytes_max::UInt64
    ring_bytes::UInt64
    pages_max::UInt32
    names_max::UInt32
    participants_max::UInt32
    cursors_max::UInt32
    sources_max::UInt32
    mode::UInt32
    ctl_mode::UInt32
    reserved::UInt32
end

struct CPageVersion
    epoch::UInt64
    lsn::UInt64
end

struct CPageInfo
    struct_size::UInt32
    size::UInt32
    id::UInt64
    versions::UInt32
    is_loaned::UInt32
    version::CPageVersion
    name::Ptr{UInt8}
    schema::Ptr{UInt8}
    schema_bytes::Ptr{UInt8}
    schema_len::Csize_t
    schema_hash::UInt64
    meta_count::Csize_t
end

struct CImage
    id::UInt64
    version::CPageVersion
    bytes::Ptr{UInt8}
    size::Csize_t
end

struct CStats
    struct_size::UInt32
    reserved::UInt32
    pages::UInt64
    names::UInt64
    sources::UInt64
    participants::UInt64
    cursors::UInt64
    published_lsn::UInt64
    end_lsn::UInt64
    floor_lsn::UInt64
    deltas::UInt64
    bytes::UInt64
    waits::UInt64
    retries::UInt64
end

struct CPageOptions
    struct_size::UInt32
    versions::UInt32
    size::UInt64
    name::Ptr{UInt8}
    schema::Ptr{UInt8}
    meta_keys::Ptr{Ptr{UInt8}}
    meta_values::Ptr{Ptr{UInt8}}
    meta_count::Csize_t
end

struct CRange
    offset::Csize_t
    bytes::Ptr{UInt8}
    len::Csize_t
end

struct CReceipt
    first::UInt64
    last::UInt64
    stop::UInt64
end

struct CSubscribeOptions
    struct_size::UInt32
    flags::UInt32
    from::UInt32
    wait::UInt32
    prefix::Ptr{UInt8}
    pages::Ptr{UInt64}
    pages_count::Csize_t
    lsn::UInt64
    incarnation::UInt64
    log_dir::Ptr{UInt8}
end

struct CEvent
    struct_size::UInt32
    event::UInt32
    page::UInt64
    version::CPageVersion
    kind::Int32
    source::UInt32
    time_ns::UInt64
    cause::UInt64
    in_transaction::UInt32
    reserved::UInt32
    ranges::Ptr{CRange}
    ranges_count::Csize_t
    bytes::Ptr{UInt8}
    len::Csize_t
    source_name::Ptr{UInt8}
    gap_from::UInt64
    gap_to::UInt64
    info::CPageInfo
end

struct CLogStatus
    struct_size::UInt32
    state::UInt32
    error::UInt32
    is_supervised::UInt32
    durable_lsn::UInt64
    end_lsn::UInt64
    from_lsn::UInt64
    incarnation::UInt64
    fork_lsn::UInt64
    checkpoint_lsn::UInt64
    checkpoint_ns::UInt64
end

struct CCheckpointInfo
    struct_size::UInt32
    reserved::UInt32
    begin_lsn::UInt64
    end_lsn::UInt64
    time_ns::UInt64
    pages::UInt64
    page_bytes::UInt64
    file_bytes::UInt64
end

struct CLogBounds
    first_lsn::UInt64
    oldest_state::UInt64
    end_lsn::UInt64
end

struct CAt
    kind::UInt32
    reserved::UInt32
    value::UInt64
end

struct CStateInfo
    struct_size::UInt32
    reserved::UInt32
    lsn::UInt64
    time_ns::UInt64
    incarnation::UInt64
    pages::UInt64
    hash::NTuple{16,UInt8}
end

struct CChange
    struct_size::UInt32
    kind::Int32
    lsn::UInt64
    time_ns::UInt64
    cause::UInt64
    page::UInt64
    source::UInt32
    in_transaction::UInt32
    source_name::Ptr{UInt8}
    page_name::Ptr{UInt8}
    ranges::Csize_t
end

struct CChangedRange
    offset::UInt32
    reserved::UInt32
    old_bytes::Ptr{UInt8}
    old_len::Csize_t
    new_bytes::Ptr{UInt8}
    new_len::Csize_t
end

struct CPageDiff
    struct_size::UInt32
    is_before::UInt32
    is_after::UInt32
    is_redescribed::UInt32
    id::UInt64
    before::CPageVersion
    after::CPageVersion
    ranges::Csize_t
end

"A struct for the library to fill: zeroed, its size in front."
function sized(::Type{T}) where {T}
    value = Ref{T}()
    GC.@preserve value begin
        p = pointer_from_objref(value)
        ccall(:memset, Ptr{Cvoid}, (Ptr{Cvoid}, Cint, Csize_t), p, 0, sizeof(T))
        unsafe_store!(Ptr{UInt32}(p), UInt32(sizeof(T)))
    end
    return value
end

"Text for the library; the caller keeps `text` alive."
c_text(::Nothing) = Ptr{UInt8}(C_NULL)
c_text(text::String) = Ptr{UInt8}(pointer(Base.unsafe_convert(Cstring, text)))
text_or_nothing(text) = text === nothing ? nothing : String(text)

from_c(p::Ptr{UInt8}) = p == C_NULL ? "" : unsafe_string(p)
bytes_from_c(p::Ptr{UInt8}, len) = p == C_NULL ? UInt8[] : copy(unsafe_wrap(Array, p, Int(len)))

page_id(index::Integer, generation::Integer) = UInt64(generation) << 32 | UInt64(index)
id_index(id::UInt64) = Int(id & 0xffff_ffff)
id_generation(id::UInt64) = UInt32(id >> 32)

nanoseconds(seconds::Real) = seconds == Inf ? typemax(UInt64) :
    0 <= seconds < 1e9 ? round(UInt64, seconds * 1e9) : throw(ArgumentError("a time is 0 to 1e9 seconds, or Inf"))

"Takes all items out of a list of the library: `fill(list)` makes it, `item(list, index)` copies one."
function from_list(fill, item; missing_is = NoSuchPage)
    list = Ref{UInt64}(0)
    check(fill(list); missing_is = missing_is)
    try
        count = Ref{Csize_t}(0)
        check(ccall(LIB.list_len, Int32, (UInt64, Ptr{Csize_t}), list[], count))
        return [item(list[], i) for i in 0:Int(count[])-1]
    finally
        ccall(LIB.list_close, Int32, (UInt64,), list[])
    end
end
