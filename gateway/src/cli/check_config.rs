//! `tarn check-config`

use clap::Args;

use super::Failure;
use super::settings::SettingsArgs;
use crate::present::say;

/// Flags of `tarn check-config`.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: CheckConfigArgs) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    match &loaded.file {
        Some(file) => say!("# {} is valid; the effective settings are", file.display()),
        None => say!("# no configuration file; the effective settings are"),
    }
    say!("{}", loaded.settings.to_toml().trim_end());
    Ok(())
}
