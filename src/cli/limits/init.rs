//! `floodmark limits init`: creates the table in a database, and the trigger that notifies of changes.

use anyhow::anyhow;

use super::console::print;
use crate::base::error::{Exit, Failure, Outcome};
use crate::cli::values::LimitRows;
use crate::limits::feed::runtime;
use crate::limits::postgres::{Session, schema};
use crate::limits::{Address, postgres};

/// The options of `floodmark limits init`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Init {
    /// The database, as postgres://USER@HOST/DATABASE
    #[arg(value_name = "URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    #[arg(required_unless_present = "print")]
    database: Option<String>,

    /// Add the optional columns that an existing table lacks, with their constraints
    #[arg(long)]
    add_columns: bool,

    /// Print the SQL, for somebody else to run, instead of running it
    #[arg(long)]
    print: bool,

    #[command(flatten)]
    rows: LimitRows,
}

impl Init {
    pub(super) fn run(&self) -> Outcome {
        let table = &self.rows.limits_table;
        let mut out = std::io::stdout().lock();
        if self.print {
            print(&mut out, &schema::script(table, self.add_columns))?;
            return Ok(Exit::Done);
        }
        let uri = self.database.as_deref().unwrap_or_default();
        let database = database(&self.rows, uri, "init")?;
        let steps = runtime()?.block_on(async {
            let session = Session::connect(&database).await?;
            session.init(table, self.add_columns).await
        });
        let steps = steps.map_err(|error| match error.is_denied() {
            true => error.in_step(
                "the user lacks the right; as the owner of the database, run the SQL that \
                 `floodmark limits init --print` prints with the same options",
            ),
            false => error.in_step("creating the table of limits"),
        })?;
        print(&mut out, &steps.iter().map(|step| format!("{step}\n")).collect::<String>())?;
        Ok(Exit::Done)
    }
}

/// The database that a URI names, for a command that needs one.
pub(super) fn database(
    rows: &LimitRows,
    uri: &str,
    command: &str,
) -> Result<postgres::Address, Failure> {
    match rows.of(uri)?.address {
        Address::Postgres(database) => Ok(*database),
        Address::File(path) => {
            let path = path.display();
            let error = anyhow!(
                "`floodmark limits {command}` works on a table, and \"{path}\" is a file: give a \
                 database as postgres://USER@HOST/DATABASE"
            );
            Err(Failure::new(Exit::Usage, error))
        }
    }
}
