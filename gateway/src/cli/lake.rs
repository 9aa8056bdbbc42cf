//! Opening the lake for the commands that only look at it.

use std::path::{Path, PathBuf};

use clap::Args;
use tarn_processor::read::{ReadTable, open_rest};
use tarn_processor::storage::Warehouse;
use tarn_processor::{Lake, LakeOptions};

use super::Failure;
use super::settings::SettingsArgs;

const CATALOG_URL: &str = "--lake takes the URL of a catalog, such as http://127.0.0.1:8181/catalog";

/// Which lake.
#[derive(Args, Debug)]
pub(super) struct LakeArgs {
    /// Data directory, or URL of a catalog such as http://127.0.0.1:8181/catalog [default: the configured lake]
    #[arg(long, env = "TARN_TABLE__LAKE", value_name = "DIR|URL")]
    lake: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl LakeArgs {
    /// Finds the lake; makes nothing where there is none.
    pub(super) async fn open(&self) -> Result<OpenLake, Failure> {
        let Some(lake) = &self.lake else {
            let settings = self.settings.load()?.settings;
            return open_local(settings.warehouse_dir(), settings.catalog_file()).await;
        };
        open(lake).await
    }
}

/// Opens what `--lake` names.
pub(super) async fn open(lake: &str) -> Result<OpenLake, Failure> {
    if lake.starts_with("http://") || lake.starts_with("https://") {
        return Ok(OpenLake::Rest(lake.trim_end_matches('/').to_owned()));
    }
    if !lake.starts_with("file://") && lake.contains("://") {
        return Err(Failure::Usage(format!(
            "--lake {lake}: {CATALOG_URL}, or a data directory"
        )));
    }
    let dir = Path::new(lake.strip_prefix("file://").unwrap_or(lake));
    open_local(dir.join("warehouse"), dir.join("catalog.db")).await
}

async fn open_local(warehouse: PathBuf, catalog: PathBuf) -> Result<OpenLake, Failure> {
    if !catalog.exists() {
        return Err(Failure::Work(format!(
            "there is no lake yet: {} does not exist; run `tarn serve`, or name the right one with --lake or --data-dir",
            catalog.display()
        )));
    }
    let options = LakeOptions {
        warehouse: Warehouse::Local(warehouse),
        catalog,
    };
    Lake::open(options)
        .await
        .map(OpenLake::Local)
        .map_err(Failure::work)
}

/// A lake that can be read.
pub(super) enum OpenLake {
    Local(Lake),
    Rest(String),
}

impl OpenLake {
    pub(super) async fn table(&self, name: &str) -> Result<ReadTable, Failure> {
        match self {
            OpenLake::Local(lake) => lake.read_table(name).await.map_err(Failure::work),
            OpenLake::Rest(uri) => open_rest(uri, name)
                .await
                .map_err(|error| Failure::Work(format!("{error}; is tarn running there? {CATALOG_URL}"))),
        }
    }

    /// Sorted names.
    pub(super) async fn names(&self) -> Result<Vec<String>, Failure> {
        match self {
            OpenLake::Local(lake) => lake.table_names().await.map_err(Failure::work),
            OpenLake::Rest(_) => Err(Failure::Usage(
                "the tables behind a URL are not listed; give --lake a data directory, or name a table: `tarn table show readings`".to_owned(),
            )),
        }
    }
}
