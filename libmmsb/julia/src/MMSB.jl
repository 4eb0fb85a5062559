"""
State that is shared between processes, from Julia. See `docs/languages/julia.md`.

* The *direct face* needs no library: [`observe`](@ref) maps a bus read-only; pages are read in place.
* The *full face* calls `libmmsb.so`: [`mmsb_start`](@ref) creates or attaches a bus, to write, log and travel in
  time.
"""
module MMSB

import Libdl
using Printf: @printf

include("errors.jl")
include("words.jl")
include("layout.jl")
include("schema.jl")
include("page.jl")
include("segment.jl")
include("observer.jl")
include("names.jl")
include("view.jl")
include("cut.jl")
include("record.jl")
include("ring.jl")
include("full/library.jl")
include("full/bus.jl")
include("full/page.jl")
include("full/update.jl")
include("full/group.jl")
include("full/subscription.jl")
include("full/history.jl")

# Both faces
export MMSBError, Stalled, Contended, Schema, Version, Image, Delta, Gap
export value, schema, name, version, metadata, source, read_version!, snapshot, changes, apply!
export next!, poll!, durable_lsn, query_page
# The direct face
export observe, Observer, ObservedPage, PageView, withview, watch, Watch, stalled, published_lsn, iscurrent
# The full face
export mmsb_start, mmsb_stop, unlink_bus, list_buses, library_version, Bus, Page
export create_page, update_page, update_page_masked, delete_page!, rename_page!
export set_schema!, set_metadata!, read_after!, batch, transaction, mark!, cause!, Receipt
export subscribe, Subscription, get_stats, print_stats, counters, recover!, log_status, set_durability!, wait_durable
export Log, log_bounds, state_at, State, replay_to_epoch, history, Change, checkpoint_log!, load_checkpoint!

end
