# Several pages as they were at one instant, and images: pages that nobody writes any more.

"""
    Image

A private copy of one version of a page: reads like a page, never changes. `version(image)` says which version it is.
"""
mutable struct Image <: AbstractPage
    name::String
    index::Int
    generation::UInt32
    schema::Union{Nothing,Schema}
    version::Version
    bytes::Vector{UInt8}
    checked::DataType
end

page_number(image::Image) = image.index
version(image::Image) = image.version
Base.sizeof(image::Image) = length(image.bytes)

function copy_page!(to::Ptr{UInt8}, image::Image, offset::Int, bytes::Int, whole::Bool)
    size = length(image.bytes)
    fits = whole ? bytes == size : offset >= 0 && bytes >= 0 && offset + bytes <= size
    fits || throw_wrong_size(image, offset, bytes, whole, size)
    GC.@preserve image copy_racing!(to, pointer(image.bytes) + offset, bytes)
    return image.version
end

"What one page was like when a cut began to look at it."
struct Glance
    entry::UInt64
    at::Int
    seq::UInt64
    lsn::UInt64
    bytes::Int
    versions::Int
    head::UInt64
end

"""
    snapshot(observer, pages) -> Vector{Image}

Copies several pages as they were at one instant: no transaction is in one of them and not in another. `pages` are
handles or names. Throws [`Stalled`](@ref) or [`Contended`](@ref) when no such instant was found within the observer's
patience.
"""
function snapshot(bus::Observer, pages)
    handles = ObservedPage[page isa ObservedPage ? page : bus[page] for page in pages]
    for page in handles
        page.bus === bus || throw(ArgumentError("$(label(page)) is of another bus"))
    end
    buffers = [Vector{UInt8}(undef, page.size) for page in handles]
    isempty(handles) && return Image[]
    mapping = bus.mapping
    attempts = Attempts(0, 0, 0)
    glances = Vector{Glance}(undef, length(handles))
    GC.@preserve mapping while true
        check_open(bus)
        half(mapping.base, AT_STATE) == STATE_READY || throw_not_ready(bus)
        late = look!(glances, handles, mapping)
        if late == 0
            late = copy_all!(buffers, glances, handles, mapping)
            late == 0 && break
        end
        attempts = again(handles[late], attempts, glances[late].seq)
    end
    return [Image(page.name, page.index, page.generation, page.schema, Version(glance.lsn, glance.seq >> 1,
        attempts.count),
                  bytes, Nothing)
            for (page, glance, bytes) in zip(handles, glances, buffers)]
end

"Notes where all pages are and that no writer is in any; returns the number of one that has a writer inside, or 0."
function look!(glances, handles, mapping::Mapping)
    base = mapping.base
    for (i, page) in enumerate(handles)
        entry = word(base, mapping.geometry.directory_at + 8 * page.index)
        block = entry & BLOCK_MASK
        block != 0 && entry >> BLOCK_BITS == page.generation || throw_gone(page)
        at = Int(block) * BLOCK_UNIT
        isbacked(mapping, at, BLOCK_HEADER) || throw_outside(page, block)
        seq = word(base, at)
        bytes = Int(half(base, at + BLOCK_SIZE))
        versions = Int(half(base, at + BLOCK_SHAPE) >> 8 & 0xff)
        head = UInt64(0)
        content = at + BLOCK_HEADER
        backed = isbacked(mapping, content, versions > 1 ? CELL_HEADER + versions * stride_of(bytes) : bytes)
        lsn_at = at + BLOCK_LSN
        if backed && versions > 1
            head = word(base, content)
            lsn_at = content + CELL_HEADER + Int(head % UInt64(versions)) * stride_of(bytes)
            content = lsn_at + VERSION_HEADER
        end
        lsn = backed ? word(base, lsn_at) : UInt64(0)
        # A publication that is not yet in `seq` may be older than a change that another page of the cut has: wait for
        # it.
        behind = backed && versions > 1 && word(base, lsn_at + VERSION_EPOCH) != seq >> 1
        glances[i] = Glance(entry, content, seq, lsn, bytes, versions, head)
        (isodd(seq) || behind) && return i
        fence_acquire()
        if !backed || bytes != page.size
            same = word(base, at) == seq && word(base, mapping.geometry.directory_at + 8 * page.index) == entry
            same || return i
            backed ? throw_wrong_size(page, 0, page.size, true, bytes) : throw_outside(page, block)
        end
    end
    return 0
end

@inline stride_of(bytes::Int) = (VERSION_HEADER + bytes + VERSION_ALIGN - 1) & -VERSION_ALIGN

"Copies all pages; returns the number of one that changed since it was looked at, or 0."
function copy_all!(buffers, glances, handles, mapping::Mapping)
    base = mapping.base
    for (bytes, glance) in zip(buffers, glances)
        GC.@preserve bytes copy_racing!(pointer(bytes), base + glance.at, glance.bytes)
    end
    fence_acquire()
    # All entries first, then all `seq`: see `undisturbed_in`.
    changed = findfirst(eachindex(handles)) do i
        word(base, mapping.geometry.directory_at + 8 * handles[i].index) != glances[i].entry
    end
    for (i, glance) in enumerate(glances)
        at = Int(glance.entry & BLOCK_MASK) * BLOCK_UNIT
        same_head = glance.versions <= 1 || word(base, at + BLOCK_HEADER) == glance.head
        good = changed === nothing && same_head && word(base, at) == glance.seq # validated: no page of the cut changed
        good || return something(changed, i)
    end
    return 0
end
