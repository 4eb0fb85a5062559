//! `mmsb-agent`: see [`mmsb_agent::daemon`].

fn main() -> std::process::ExitCode {
    mmsb_agent::daemon::main()
}
