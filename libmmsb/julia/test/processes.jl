# Two processes, the examples, and the stranger.

allequal_words(words) = all(==(words[1]), words)

@testset "another process writes while this one reads" begin
    mmsb("create", "pair", "--pages", "p::u64[128]")
    follower = watch(observe("pair"); pages = ["p"])
    page = observe("pair")["p"]
    for n in 1:20
        mmsb("write", "pair", "p", "--as", "u64", join(fill(n, 128), ","))
        words = read(page, Vector{UInt64})
        @test all(==(n), words)
        @test next!(follower; timeout = 10) isa Delta
    end
    if HAS_LIBRARY
        writer = """
            using MMSB
            mmsb_start("pair"; create = :never) do bus
                page = bus["p"]
                words = zeros(UInt64, 128)
                until = time() + 4
                n = UInt64(100)
                while time() < until
                    n += 1
                    update_page(page, fill!(words, n))
                end
            end"""
        process = open(pipeline(julia_process("-e", writer); stderr = stderr))
        words, torn, reads, last = zeros(UInt64, 128), 0, 0, UInt64(0)
        while process_running(process)
            try
                read!(words, page)
                torn += !(allequal_words(words) && words[1] >= last)
                last = words[1]
                reads += 1
            catch error
                error isa Union{Stalled,Contended} || rethrow()
            end
            reads % 1000 == 0 && yield()
        end
        @test success(process) && torn == 0 && reads > 1000 && last > 100
        # It was killed inside of a write, or not: the next one goes on.
        killed = open(pipeline(julia_process("-e", replace(writer, "+ 4" => "+ 60")); stderr = devnull))
        started = time()
        while read(page, Vector{UInt64})[1] <= last && time() - started < 60
            sleep(0.01)
        end
        kill(killed, Base.SIGKILL)
        wait(killed)
        mmsb_start(bus -> update_page(bus["p"], fill(UInt64(7), 128)), "pair"; create = :never)
        @test all(==(7), read(page, Vector{UInt64}))
    end
end

@testset "the examples run" begin
    for example in ("quickstart.jl", "tutorial.jl")
        path = joinpath(TREE, "examples", "julia", example)
        if !isfile(path) || (!HAS_LIBRARY && example == "tutorial.jl")
            println("skipped: ", isfile(path) ? "no libmmsb" : "no $path")
            continue
        end
        mmsb("create", "quickstart", "--if-missing", "--pages", "tank/1::tank{level:f64,valve:u32}")
        @test success(pipeline(julia_process(path); stdout = devnull, stderr = stderr))
    end
end

@testset "the stranger agrees" begin
    path = joinpath(TREE, "tests", "strangers", "stranger.jl")
    if isfile(path)
        mmsb("create", "strange", "--pages", "s/cell:256x4:u64[32]")
        mmsb("write", "strange", "s/cell", "--as", "u64", join((i == 0 ? 5 : 5 * (2i + 1) + i for i in 0:31), ","))
        line = read(julia_process(path, "--dir", DIR, "--bus", "strange", "--page", "s/cell", "--reads", "1000"),
            String)
        @test occursin("\"language\":\"julia\",\"page\":\"s/cell\",\"bytes\":256,\"reads\":1000", line)
        @test occursin("\"torn\":0", line)
        mmsb("write", "strange", "s/cell", "--as", "u64", "6")
        run_ignoring(arguments...) = run(pipeline(ignorestatus(julia_process(path, arguments...)); stdout = devnull,
            stderr = devnull))
        @test run_ignoring("--dir", DIR, "--bus", "strange", "--page", "s/cell", "--reads", "10").exitcode == 1
        @test run_ignoring("--dir", DIR, "--bus", "nobody", "--page", "s/cell", "--reads", "10").exitcode == 2
        @test run_ignoring("--page", "s/cell").exitcode == 2
    else
        println("skipped: no ", path)
    end
end
