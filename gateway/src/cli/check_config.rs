//! `tarn check-config`

use clap::Args;

use super::Failure;
use super::settings::SettingsArgs;

/// Flags of `tarn check-config`.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: CheckConfigArgs) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    match &loaded.file {
        Some(file) => println!("# {} is valid; the effective settings are", file.display()),
        None => println!("# no configuration file; the effective settings are"),
    }
    print!("{}", loaded.settings.to_toml());
    Ok(())
}
