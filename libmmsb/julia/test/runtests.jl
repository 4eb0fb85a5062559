# Run by Pkg.test. MMSB_BIN: the command `mmsb`, which makes the buses. MMSB_LIBRARY: libmmsb.so; without it the full face
# is skipped.

using MMSB, Test

const MMSB_BIN = get(ENV, "MMSB_BIN", "")
const TREE = get(ENV, "MMSB_TREE", normpath(joinpath(@__DIR__, "..", "..", "..")))
const PACKAGE = normpath(joinpath(@__DIR__, ".."))
const HAS_LIBRARY = haskey(ENV, "MMSB_LIBRARY")

isempty(MMSB_BIN) && error("MMSB_BIN has to name the command mmsb")

# A private directory on the tmpfs for all buses of a run.
const DIR = mktempdir("/dev/shm"; prefix = "mmsb-julia.")
ENV["MMSB_DIR"] = DIR

mmsb(arguments...) = run(pipeline(`$MMSB_BIN $(collect(arguments))`; stdout = devnull))

"The command line of another Julia process, which knows the package."
julia_process(arguments...) =
    `$(Base.julia_cmd()) --startup-file=no --compiled-modules=yes --project=$PACKAGE $(collect(arguments))`

include("tally.jl")

const DEFAULT = ["words.jl", "schema.jl", "direct.jl", "watch.jl", "hostile.jl", "full.jl", "log.jl", "collector.jl",
                 "processes.jl"]

run_counted(isempty(ARGS) ? DEFAULT : ARGS) do file
    if file in ("full.jl", "log.jl", "collector.jl") && !HAS_LIBRARY
        println("skipped: no libmmsb (", file, ")")
    else
        include(joinpath(@__DIR__, file))
    end
end
