# Reads a bus from Julia, without any library, in a few lines. First, in a shell:
#
#   mmsb create quickstart --pages 'tank/1::tank{level:f64,valve:u32}'
#   julia --project=libmmsb/julia examples/julia/quickstart.jl

using MMSB

observe("quickstart") do bus
    tank = bus["tank/1"]
    println(tank)
    println(value(tank))                        # all fields, by the page's schema
    println("level: ", tank[:level])            # one of them
end
