# A read-only mapping of `.pages`: opening, growing with the bus, and going away when nobody looks at it any more.

const O_RDONLY = Cint(0)
const O_NONBLOCK = Cint(0o4000)             # a FIFO of that name must not hold us up
const O_NOFOLLOW = Cint(0o400000)
const O_CLOEXEC = Cint(0o2000000)
const PROT_READ = Cint(1)
const MAP_SHARED = Cint(1)
const MAP_NORESERVE = Cint(0x4000)
const MAP_FAILED = Ptr{UInt8}(typemax(UInt))

"""
A mapping is given back by its finalizer only, never by hand: a read on another thread that began before `close` keeps
the mapping alive until it is through, at no cost to any read.
"""
mutable struct Mapping
    base::Ptr{UInt8}
    geometry::Geometry
    fd::RawFD
    # Bytes that are known to be backed by memory. Rises as the bus grows; whichever of two threads stores last stores
    # a truth.
    backed::Int
    path::String

    function Mapping(path::String)
        fd = ccall(:open, Cint, (Cstring, Cint, Cint...), path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0)
        fd < 0 && throw(open_error(path, Libc.errno()))
        base = MAP_FAILED
        bytes = 0
        try
            bytes = checked_length(RawFD(fd), path)
            base = map_bytes(fd, HEADER_BYTES, path)
            geometry = read_geometry(base, bytes, path)
            ccall(:munmap, Cint, (Ptr{UInt8}, Csize_t), base, HEADER_BYTES)
            base = MAP_FAILED
            # The whole range at once, so that addresses never move. What lies behind `backed` is address space, no
            # memory.
            base = map_bytes(fd, geometry.len_max, path)
            mapping = new(base, geometry, RawFD(fd), 0, path)
            finalizer(unmap, mapping)
            base = MAP_FAILED
            fd = Cint(-1)
            grow!(mapping)
            return mapping
        finally
            base == MAP_FAILED || ccall(:munmap, Cint, (Ptr{UInt8}, Csize_t), base, HEADER_BYTES)
            fd < 0 || ccall(:close, Cint, (Cint,), fd)
        end
    end
end

function unmap(mapping::Mapping)
    ccall(:munmap, Cint, (Ptr{UInt8}, Csize_t), mapping.base, mapping.geometry.len_max)
    ccall(:close, Cint, (Cint,), reinterpret(Cint, mapping.fd))
    return nothing
end

function open_error(path::String, errno)
    reason = Libc.strerror(errno)
    errno == Libc.ENOENT && return MissingBus("there is no bus at $path")
    errno in (Libc.EACCES, Libc.EPERM) && return AccessDenied("$path: $reason")
    errno == Libc.ELOOP && return WrongLayout("$path is a symbolic link, which is not followed")
    return IOFailure("$path: $reason")
end

"Length of the object behind `fd`, which must be a file that has a header."
function checked_length(fd::RawFD, path::String)
    info = stat(fd)
    isfile(info) || throw(WrongLayout("$path is no bus: not a file"))
    bytes = filesize(info)
    bytes >= HEADER_BYTES || throw(WrongLayout("$path has $bytes bytes, less than a header"))
    return Int(bytes)
end

function map_bytes(fd::Cint, bytes::Int, path::String)
    base = ccall(:mmap, Ptr{UInt8}, (Ptr{Cvoid}, Csize_t, Cint, Cint, Cint, Int64),
                 C_NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0)
    base == MAP_FAILED && throw(IOFailure("mapping $bytes bytes of $path: $(Libc.strerror(Libc.errno()))"))
    return base
end

"Asks how much is backed by now: what the header says, but never more than the object has."
@noinline function grow!(mapping::Mapping)
    len = word(mapping.base, AT_LEN)
    len <= mapping.geometry.len_max || throw(Corrupt("len of $(mapping.path) is $len, more than its len_max"))
    bytes = filesize(stat(mapping.fd))
    # The tables were checked when the bus was opened, and objects never shrink.
    bytes >= min(mapping.backed, Int(len)) || throw(WrongLayout("$(mapping.path) shrank to $bytes bytes"))
    mapping.backed = min(Int(len), Int(bytes))
    return nothing
end

"Whether bytes `at` to `at + bytes` of the arena may be touched."
@inline function isbacked(mapping::Mapping, at::Int, bytes::Int)
    at >= mapping.geometry.arena_at || return false
    # Neither sum can overflow: blocks number 2^36 of 32 bytes at most, and sizes are below 2^32.
    at + bytes <= mapping.backed && return true
    grow!(mapping)
    return at + bytes <= mapping.backed
end
