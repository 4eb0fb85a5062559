//! `mmsb man`: the manual pages, one for the command and one for each subcommand, those of subcommands too.

use std::path::PathBuf;

use clap::CommandFactory;
use serde_json::json;

use super::exit::{Code, Failure, io_code};
use super::{Cli, Context};

const EXAMPLES: &str = "\
Examples:
  mmsb man /usr/local/share/man/man1
  mmsb man . && man ./mmsb-watch.1";

/// Arguments of `mmsb man`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Where to put the pages; made if it does not exist
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
}

/// Runs it.
///
/// # Errors
///
/// What writing the files gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            io_code(&e),
            format!("cannot write to {}: {e}", args.target.display()),
        )
    };
    std::fs::create_dir_all(&args.target).map_err(failed)?;
    let mut command = Cli::command();
    // Tells the subcommands their full names and the global options.
    command.build();
    let mut pages = Vec::new();
    gather(&command, &mut pages);
    let mut files = Vec::new();
    for page in pages {
        let name = page.get_display_name().unwrap_or("mmsb").to_owned();
        let file = args.target.join(format!("{name}.1"));
        let mut text = Vec::new();
        clap_mangen::Man::new(page)
            .render(&mut text)
            .map_err(failed)?;
        std::fs::write(&file, text).map_err(failed)?;
        files.push(file.display().to_string());
    }
    if context.json {
        context.document(&json!({"files": files}))?;
    } else {
        for file in files {
            context.line(file)?;
        }
    }
    Ok(Code::Ok)
}

/// A command, and all below it.
fn gather(command: &clap::Command, pages: &mut Vec<clap::Command>) {
    pages.push(command.clone());
    for sub in command.get_subcommands() {
        if !sub.is_hide_set() && sub.get_name() != "help" {
            gather(sub, pages);
        }
    }
}
