//! `keyward completions` and `keyward man`: made from the command line's own description, so they cannot lie.

use clap::CommandFactory as _;

use super::{CommandLine, Exit, print};

/// Completions for a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "keyward", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}

/// The manual page, all subcommands in it.
pub(super) fn page() -> anyhow::Result<Exit> {
    let mut command = CommandLine::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    print(String::from_utf8_lossy(&page).trim_end());
    Ok(Exit::Done)
}
