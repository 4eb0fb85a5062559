# Loads of shared words, and the fence between a copy and its check. The only file that knows how this Julia spells an
# atomic.
#
# Julia has atomic loads through a pointer since 1.10. Before, the same machine instruction is had through `llvmcall`:
# LLVM's `load atomic ... acquire` is on x86-64 one plain `mov`, because the processor never lets a load pass a later
# load, and the compiler may then neither tear it, nor repeat it, nor move what follows to before it. `fence acquire`
# is no instruction at all on x86-64 and keeps the compiler from moving the loads of the check to before those of the
# copy. On processors with weaker ordering the words of the old path would still be right, but nobody has tested them
# there, and the bus itself runs on x86-64.

Sys.ARCH === :x86_64 || error("MMSB runs on x86-64 only, this is ", Sys.ARCH)
Sys.islinux() || error("MMSB runs on Linux only")

const Word = Union{UInt8,UInt16,UInt32,UInt64}

@static if VERSION >= v"1.10"
    @inline load_acquire(p::Ptr{UInt64}) = unsafe_load(p, :acquire)
    @inline load_acquire(p::Ptr{UInt32}) = unsafe_load(p, :acquire)
    @inline load_relaxed(p::Ptr{T}) where {T<:Word} = unsafe_load(p, :monotonic)
else
    for (T, i) in ((UInt8, "i8"), (UInt16, "i16"), (UInt32, "i32"), (UInt64, "i64"))
        code(order) = """
            %p = inttoptr i64 %0 to $i*
            %v = load atomic $i, $i* %p $order, align $(sizeof(T))
            ret $i %v"""
        @eval @inline load_acquire(p::Ptr{$T}) = Base.llvmcall($(code("acquire")), $T, Tuple{Ptr{$T}}, p)
        @eval @inline load_relaxed(p::Ptr{$T}) = Base.llvmcall($(code("monotonic")), $T, Tuple{Ptr{$T}}, p)
    end
end

"Loads behind it are not done before loads ahead of it."
@inline fence_acquire() = Base.llvmcall("fence acquire\nret void", Cvoid, Tuple{})

"A word that says where something is, or how far it got; what is read behind it is at least as new."
@inline word(base::Ptr{UInt8}, at::Integer) = load_acquire(Ptr{UInt64}(base + at))

"Half a word; of fields that are checked by another load, or never change."
@inline half(base::Ptr{UInt8}, at::Integer) = load_relaxed(Ptr{UInt32}(base + at))

"Copies bytes that somebody may be writing. What was copied means nothing until a check behind `fence_acquire` says so."
@inline function copy_racing!(to::Ptr{UInt8}, from::Ptr{UInt8}, bytes::Int)
    # A call: the compiler can neither look into it nor leave it out.
    ccall(:memcpy, Ptr{Cvoid}, (Ptr{Cvoid}, Ptr{Cvoid}, Csize_t), to, from, bytes)
    return nothing
end

"Tells the processor that this is a loop that waits."
@inline pause() = ccall(:jl_cpu_pause, Cvoid, ())
