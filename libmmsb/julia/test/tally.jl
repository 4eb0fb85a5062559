# Counts what passed and failed over all files, prints it the way other test programs here do, and sets the exit status.

function count_results(set)
    passed, failed = set.n_passed, 0
    for result in set.results
        if result isa Test.DefaultTestSet
            p, f = count_results(result)
            passed, failed = passed + p, failed + f
        elseif result isa Union{Test.Fail,Test.Error}
            failed += 1
        end
    end
    return passed, failed
end

function run_counted(run, files)
    passed = failed = 0
    for file in files
        started = time()
        set = try
            @testset "$file" begin
                run(file)
            end
        catch error
            # A test set that failed has printed what, and throws at its end.
            error isa Test.TestSetException || rethrow()
            passed += error.pass
            failed += error.fail + error.error
            continue
        end
        set isa Test.DefaultTestSet || continue
        p, f = count_results(set)
        passed, failed = passed + p, failed + f
        println(rpad(file, 16), lpad(p, 8), " passed in ", round(time() - started; digits = 1), " s")
    end
    tally = string("test result: ", failed == 0 ? "ok" : "FAILED", ". ", passed, " passed; ", failed, " failed;")
    haskey(ENV, "MMSB_TEST_TALLY") ? write(ENV["MMSB_TEST_TALLY"], tally * "\n") : println(tally)
    rm(DIR; recursive = true, force = true)
    failed == 0 || exit(1)
end
