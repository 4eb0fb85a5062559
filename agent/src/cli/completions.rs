//! `mmsb completions`: scripts that let a shell complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::{Code, Failure};
use super::{Cli, Context};

const EXAMPLES: &str = "\
Examples:
  mmsb completions bash > /etc/bash_completion.d/mmsb
  mmsb completions zsh > ~/.zfunc/_mmsb
  mmsb completions fish > ~/.config/fish/completions/mmsb.fish";

/// Arguments of `mmsb completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The shell
    pub shell: Shell,
}

/// Runs it.
///
/// # Errors
///
/// What writing the output gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    // Into memory first: the generator panics where writing fails, and a closed pipe is no reason to.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mmsb", &mut script);
    context.out.write_all(&script)?;
    Ok(Code::Ok)
}
