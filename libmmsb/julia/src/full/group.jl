# Several deltas at once: batches, which are quick, and transactions, which are all or nothing.

"""
    Receipt

Where a batch or transaction is in the order: LSNs `first` and `last` of its deltas (`last` is 0 if it was empty),
`stop` of what follows; `value`: what its function returned.
"""
struct Receipt
    first::UInt64
    last::UInt64
    stop::UInt64
    value::Any
end

Base.show(io::IO, receipt::Receipt) = print(io, "Receipt(LSN ", receipt.first, " to ", receipt.last, ")")

"What a function of [`batch`](@ref) gets: `batch[page]` or `batch[name]` can be changed by [`update_page`](@ref)."
mutable struct Batch
    bus::Bus
    handle::UInt64
end

"What a function of [`transaction`](@ref) gets: `transaction[page]` or `transaction[name]` can be read and changed."
mutable struct Transaction
    bus::Bus
    handle::UInt64
end

"A page within a [`Batch`](@ref) or [`Transaction`](@ref)."
struct PageIn{G} <: GroupPage
    group::G
    page::Page
end

function Base.getindex(group::Union{Batch,Transaction}, page::Page)
    page.bus === group.bus || throw(OtherBus("$(label(page)) is of another bus"))
    return PageIn(group, page)
end

Base.getindex(group::Union{Batch,Transaction}, name::AbstractString) = group[group.bus[name]]

name(page::PageIn) = page.page.name
schema(page::PageIn) = page.page.schema
page_number(page::PageIn) = page_number(page.page)
Base.sizeof(page::PageIn) = page.page.size
@inline check_type(page::PageIn, ::Type{T}) where {T} = check_type(page.page, T)

function enter(page::PageIn)
    enter(page.page)
    page.group.handle == 0 && (leave(page.page); throw(Closed("the batch or transaction has ended")))
    return nothing
end

function copy_page!(to::Ptr{UInt8}, page::PageIn{Transaction}, offset::Int, bytes::Int, whole::Bool)
    size = page.page.size
    fits = whole ? bytes == size : (offset >= 0) & (bytes >= 0) & (offset + bytes <= size)
    fits || throw_wrong_size(page, offset, bytes, whole, size)
    enter(page)
    status = ccall(LIB.transaction_read, Int32, (UInt64, UInt64, Csize_t, Ptr{UInt8}, Csize_t),
                   page.group.handle, page.page.handle, offset, to, bytes)
    leave(page.page)
    check(status)
    return Version(0, 0, 0)
end

copy_page!(to::Ptr{UInt8}, page::PageIn{Batch}, offset::Int, bytes::Int, whole::Bool) =
    throw(ArgumentError("a batch only writes: read the page itself, or use a transaction"))

# What is added to a group has no LSN before it commits: 0.

write_whole!(page::PageIn, from::Ptr{UInt8}, bytes::Int) = patch!(page, 0, from, bytes, UInt64(0))

function patch!(page::PageIn{G}, offset::Int, from::Ptr{UInt8}, bytes::Int, cause::UInt64) where {G}
    cause == 0 || throw(ArgumentError("a cause belongs to the whole batch or transaction: cause!(group, lsn)"))
    enter(page)
    call = G === Batch ? LIB.batch_patch : LIB.transaction_patch
    status = ccall(call, Int32, (UInt64, UInt64, Csize_t, Ptr{UInt8}, Csize_t),
                   page.group.handle, page.page.handle, offset, from, bytes)
    leave(page.page)
    check(status)
    return UInt64(0)
end

function patch_many!(page::PageIn{G}, ranges::Vector{CRange}) where {G}
    enter(page)
    call = G === Batch ? LIB.batch_patch_many : LIB.transaction_patch_many
    status = ccall(call, Int32, (UInt64, UInt64, Ptr{CRange}, Csize_t),
                   page.group.handle, page.page.handle, ranges, length(ranges))
    leave(page.page)
    check(status)
    return UInt64(0)
end

function in_group(call::Ptr{Cvoid}, group, f)
    serialised(group.bus) do
        group.handle == 0 && throw(Closed("the batch or transaction has ended"))
        check(f(call))
    end
    return nothing
end

"""
    mark!(group, bytes)

Adds a mark to a [`batch`](@ref) or [`transaction`](@ref): bytes that belong to no page, at their place in the order.
"""
mark!(group::G, bytes::DenseVector{UInt8}) where {G<:Union{Batch,Transaction}} =
    in_group(G === Batch ? LIB.batch_mark : LIB.transaction_mark, group,
             call -> ccall(call, Int32, (UInt64, Ptr{UInt8}, Csize_t), group.handle, bytes, length(bytes)))

"""
    cause!(group, lsn)

Names the earlier delta that led to a [`batch`](@ref) or [`transaction`](@ref).
"""
cause!(group::G, lsn::Integer) where {G<:Union{Batch,Transaction}} =
    in_group(G === Batch ? LIB.batch_cause : LIB.transaction_cause, group,
             call -> ccall(call, Int32, (UInt64, UInt64), group.handle, lsn))

"""
    batch(f, bus) -> Receipt

Calls `f(batch)`, then publishes what it added with `update_page(batch[page], ...)` in one piece of the order: much
quicker than one by one, each delta complete in itself. If `f` throws, nothing is published.

    batch(bus) do b
        update_page(b["tank/1"], 20.5)
        update_page(b["tank/2"], 21.0)
    end
"""
function batch(f, bus::Bus)
    handle = Ref{UInt64}(0)
    serialised(() -> check(ccall(LIB.batch_open, Int32, (UInt64, Ptr{UInt64}), bus.handle, handle)), bus)
    group = Batch(bus, handle[])
    try
        value = f(group)
        receipt = Ref(CReceipt(0, 0, 0))
        serialised(() -> check(ccall(LIB.batch_commit, Int32, (UInt64, Ptr{CReceipt}), group.handle, receipt)), bus)
        return Receipt(receipt[].first, receipt[].last, receipt[].stop, value)
    finally
        finish!(group, LIB.batch_close)
    end
end

"Ends what is left of a group, if its bus has not ended it."
function finish!(group, call::Ptr{Cvoid})
    bus = group.bus
    while !trylock(bus.lock)
        yield()
    end
    handle = group.handle
    group.handle = 0
    handle == 0 || bus.handle == 0 || ccall(call, Int32, (UInt64,), handle)
    unlock(bus.lock)
    return nothing
end

"""
    transaction(f, bus; attempts = 100) -> Receipt

Calls `f(transaction)`, then commits what it changed with `update_page(transaction[page], ...)`: all or nothing, for
every reader at once. Reads within it (`read(transaction[page], T)`, `transaction["a"][:price]`) see what it has
changed. Nothing is locked meanwhile: if another writer changes a page that was read, `f` is called again, at most
`attempts` times before [`Conflict`](@ref) is thrown. If `f` throws, nothing is changed.

    transaction(bus) do t
        a, b = t["account/a"], t["account/b"]
        a[:balance] -= 10
        b[:balance] += 10
    end
"""
function transaction(f, bus::Bus; attempts::Integer = 100)
    for attempt in 1:attempts
        try
            return attempt_transaction(f, bus)
        catch error
            error isa Conflict && attempt < attempts || rethrow()
        end
    end
    throw(ArgumentError("a transaction needs at least one attempt"))
end

function attempt_transaction(f, bus::Bus)
    handle = Ref{UInt64}(0)
    serialised(() -> check(ccall(LIB.transaction_begin, Int32, (UInt64, Ptr{UInt64}), bus.handle, handle)), bus)
    group = Transaction(bus, handle[])
    try
        value = f(group)
        receipt = Ref(CReceipt(0, 0, 0))
        serialised(bus) do
            # Stale afterwards, whatever is returned.
            committed, group.handle = group.handle, UInt64(0)
            check(ccall(LIB.transaction_commit, Int32, (UInt64, Ptr{CReceipt}), committed, receipt))
        end
        return Receipt(receipt[].first, receipt[].last, receipt[].stop, value)
    finally
        finish!(group, LIB.transaction_abandon)
    end
end

Base.show(io::IO, group::Union{Batch,Transaction}) =
    print(io, nameof(typeof(group)), "(", repr(group.bus.name), group.handle == 0 ? ", ended" : "", ")")
