//! `mmsb`: see [`mmsb_agent::cli`].

fn main() -> std::process::ExitCode {
    mmsb_agent::cli::main()
}
