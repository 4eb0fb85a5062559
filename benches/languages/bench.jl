# Reads by the direct face, reads and commits through the library: one line `case nanoseconds` each. Arguments: directory,
# bus.
using MMSB

function time_ns_of(f, n)
    for _ in 1:(n ÷ 10)
        f()
    end
    begun = time_ns()
    for _ in 1:n
        f()
    end
    return (time_ns() - begun) / n
end

# Functions of their own, so that each is compiled for its types.
read_case(page, buffer, n) = time_ns_of(() -> read!(buffer, page), n)
commit_case(page, value, n) = time_ns_of(() -> update_page(page, value), n)

function run(dir, name)
    observe(name; dir = dir) do bus
        println("read_64 ", read_case(bus["read/64"], zeros(UInt64, 8), 1_000_000))
        println("read_1024 ", read_case(bus["read/1024"], zeros(UInt64, 128), 500_000))
    end
    mmsb_start(name; dir = dir, source = "julia") do bus
        println("library_read_64 ", read_case(bus["read/64"], zeros(UInt64, 8), 1_000_000))
        println("commit_64 ", commit_case(bus["commit/64"], zeros(UInt64, 8), 500_000))
    end
end

run(ARGS[1], ARGS[2])
