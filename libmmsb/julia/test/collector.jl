# The garbage collector, at every moment: nothing in use goes away, and what is left over is closed.

"Many handles that nobody keeps."
function litter(bus, count)
    for i in 1:count
        update_page(bus["p"], UInt64[i, i])
        subscribe(bus)
        observe("litter")["p"]
    end
end

@testset "handles are closed by the collector, in any order" begin
    mmsb_start("litter") do bus
        page = create_page(bus, "p", 16)
        # More subscriptions than there are cursors: they go only if finalizers end them.
        for round in 1:20
            litter(bus, 20)
            GC.gc()
        end
        GC.gc()
        @test get_stats(bus).cursors <= 40
        @test read(page, NTuple{2,UInt64}) === (UInt64(20), UInt64(20))
        words = zeros(UInt64, 2)
        seen = observe("litter")["p"]
        for i in 1:100
            update_page(page, (UInt64(i), UInt64(i)))
            GC.gc(false)
            @test read!(words, page) == [i, i] && read(seen, NTuple{2,UInt64}) == (i, i)
            transaction(t -> (GC.gc(false); read(t[page])), bus)
        end
    end
    # A bus that nobody closed, with all that came from it.
    for _ in 1:5
        bus = mmsb_start("litter"; create = :never)
        bus["p"]; subscribe(bus)
    end
    GC.gc(); GC.gc()
    @test mmsb_start(bus -> get_stats(bus).participants, "litter"; create = :never) <= 3
    unlink_bus("litter")
end

@testset "a finalizer that finds the lock taken comes back later" begin
    mmsb_start("busy") do bus
        page = create_page(bus, "p", 16)
        lock(bus.lock)
        MMSB.release(page)
        @test page.handle != 0
        unlock(bus.lock)
        MMSB.release(page)
        @test page.handle == 0
        MMSB.release(page)
    end
    unlink_bus("busy")
end

@testset "tasks and threads take turns" begin
    mmsb_start("turns") do bus
        page = create_page(bus, "n"; schema = "n:i64")
        work() = for _ in 1:200
            transaction(t -> t[page][:n] += 1, bus)
            yield()
        end
        @sync for _ in 1:4
            Threads.nthreads() > 1 ? Threads.@spawn(work()) : @async(work())
        end
        @test page[:n] == 800
    end
    unlink_bus("turns")
end
