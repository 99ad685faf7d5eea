//! Creating and opening: key files, config, and the races between several that create at once.
//!
//! The config is written once, by whoever is first; a key file is there before the config that needs it. So an
//! interrupted creation leaves a key without a config, which the next one takes up if its password opens it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::{
    ConfigOptions, Credentials, Id, KeyOptions,
    repofile::{ConfigFile, MasterKey},
};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Access, Repository, RepositoryError,
    archive::internal,
    crypto::{self, Cipher},
    engine::{self, FirstError, Writes},
    lock::{self, Purpose, Unlock, Unlocked, Wanted},
    store::{Kind, Store, Write},
};
use crate::model::Secret;

/// How often is looked for a config that a key opens.
const MOST_LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Creates a repository of format 2 with one key, and opens it. Errors: [`RepositoryError::AlreadyExists`], also when
/// another process was faster, and all that [`open`] says.
pub async fn create(access: Access, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    // A new repository has an id of its own.
    let access = Access { expected_ids: Vec::new(), ..access };
    let store = Store::new(&access, cancel)?;
    let exists = || RepositoryError::AlreadyExists { place: store.place().to_owned() };
    let keys = sorted_keys(&store).await?;
    if store.stat(Kind::Config, &Id::default()).await?.is_some() {
        return Err(exists());
    }
    if !store.list_in_new_place(Kind::Snapshot).await?.is_empty() {
        return Err(store.damaged("it holds snapshots and no config"));
    }
    store.prepare().await?;
    let (master, mut own_key) = if keys.is_empty() {
        let master = MasterKey::new();
        let key = write_key(&store, &access, &master).await?;
        // Of several that are at this point at once, all that see each other take the same key.
        let keys = sorted_keys(&store).await?;
        (open_first(&store, &access, &keys).await?.unwrap_or(master), Some(key))
    } else {
        let left = open_first(&store, &access, &keys).await?;
        let left = left.ok_or_else(|| RepositoryError::WrongPassword { place: store.place().to_owned() })?;
        (left, None)
    };
    let config = new_config(&store, master.clone()).await?;
    // Whether it was written or taken: a retry after a lost acknowledgement finds its own.
    store.write(Kind::Config, &Id::default(), vec![config.clone()], Write::CreateNew).await?;
    if !stands(&store, &access, &master, &config, &mut own_key).await? {
        return Err(exists());
    }
    let repository = finish_opening(store.clone(), access.clone(), Purpose::Write).await?;
    // Once more, after the time that a lock takes to settle: there are stores whose "only if absent" looks first and
    // replaces then.
    if !stands(&store, &access, &master, &config, &mut own_key).await? {
        repository.close().await;
        return Err(exists());
    }
    Ok(repository)
}

/// Whether our config is the one that is there. If it is, a key opens it: a rival may have taken away the one that we share.
/// And a key of our own that does not open it goes: it is in the way of restic, which tries no second one that the password
/// fits.
async fn stands(
    store: &Store,
    access: &Access,
    master: &MasterKey,
    config: &Bytes,
    own_key: &mut Option<Id>,
) -> Result<bool, RepositoryError> {
    let found = read_config(store).await?;
    let stands = found == *config;
    let used = match unlock_config(store, access, &found).await {
        Ok((_, used, _)) => Some(used),
        Err(RepositoryError::Damaged { .. } | RepositoryError::WrongPassword { .. }) if stands => {
            Some(write_key(store, access, master).await?)
        }
        Err(RepositoryError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(key) = own_key.take_if(|key| used != Some(*key)) {
        store.remove(Kind::Key, &key).await?;
    }
    Ok(stands)
}

/// Opens a repository, takes a lock in it, and keeps that until it is closed or dropped.
///
/// Errors: [`RepositoryError::NotFound`] only if the store reports that there is none; [`RepositoryError::Changed`] if another
/// one than expected is there, and then nothing was written; [`RepositoryError::WrongPassword`];
/// [`RepositoryError::Locked`]; and what a store can have.
pub async fn open(access: Access, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Write).await
}

/// Opens a repository for what only reads. Errors: as [`open`], but the exclusive lock of a Stowaway that has stopped, such as
/// the lock of a prune whose node is gone, is waited for only until that is certain, and not until it is stale.
///
/// Nothing may be stored in a repository that was opened so.
pub async fn open_to_read(access: Access, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Read).await
}

/// Opens a repository with a lock that keeps off all others, readers and writers: for what removes. Errors: as [`open`];
/// any lock of somebody else is in the way.
pub async fn open_exclusively(access: Access, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Remove).await
}

/// Removes locks, and takes none; reports which ones.
pub async fn remove_locks(
    access: Access,
    cancel: CancellationToken,
    which: Unlock,
) -> Result<Unlocked, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    let ((master, _, _), _) = unlock(&store, &access).await?;
    let cipher = Cipher::of(&master).map_err(|error| store.damaged(error.to_string()))?;
    lock::remove_locks(&store, &cipher, &*access.locks.judge, which).await
}

/// Opens a repository, creating it when there is none.
pub async fn open_or_create(access: Access, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    match open(access.clone(), cancel.clone()).await {
        Err(RepositoryError::NotFound { .. }) => match create(access.clone(), cancel.clone()).await {
            Err(RepositoryError::AlreadyExists { .. }) => open(access, cancel).await,
            created => created,
        },
        opened => opened,
    }
}

async fn finish_opening(store: Store, access: Access, purpose: Purpose) -> Result<Repository, RepositoryError> {
    let mut looks = 1;
    loop {
        let (repository, sealed) = lock_and_open(&store, &access, purpose).await?;
        // What is stored under a config that a second creator replaces could never be read again.
        if read_config(&store).await? == sealed {
            return Ok(repository);
        }
        repository.close().await;
        if looks == MOST_LOOKS {
            return Err(store.damaged("its config is replaced again and again"));
        }
        looks += 1;
    }
}

/// Opens it with its config as it is now, which is returned as well.
async fn lock_and_open(
    store: &Store,
    access: &Access,
    purpose: Purpose,
) -> Result<(Repository, Bytes), RepositoryError> {
    let ((master, key, config), sealed) = unlock(store, access).await?;
    if !(1..=2).contains(&config.version) {
        let what = format!("{} has the unknown format {}", store.place(), config.version);
        return Err(RepositoryError::InvalidRequest(what));
    }
    let id = config.id.to_hex().as_str().to_owned();
    // Before anything is written.
    if !access.expected_ids.is_empty() && !access.expected_ids.contains(&id) {
        let (place, expected) = (store.place().to_owned(), access.expected_ids.join(" or "));
        return Err(RepositoryError::Changed { place, expected, found: id });
    }
    let cipher = Cipher::of(&master).map_err(|error| store.damaged(error.to_string()))?;
    let wanted = Wanted {
        store: store.clone(),
        cipher: cipher.clone(),
        version: config.version,
        holder: access.holder.clone(),
        purpose,
    };
    let lock = wanted.take(&access.locks).await?;
    // One that is none is told where something is to be stored; all else goes without it.
    let polynomial = config.poly().unwrap_or_default();
    let version = config.version;
    // Its lock is there, so the store was reached and can be written.
    let store = store.under_way();
    let repository = Repository { store, master, cipher, version, polynomial, id, key, lock };
    Ok((repository, sealed))
}

/// The master key that the password opens and that opens the config, the key file it is from, and the config.
type Opened = (MasterKey, Id, ConfigFile);

/// What the password opens, and the config as it is stored.
async fn unlock(store: &Store, access: &Access) -> Result<(Opened, Bytes), RepositoryError> {
    let mut looks = 1;
    loop {
        let config = read_config(store).await?;
        match unlock_config(store, access, &config).await {
            // Several that create it at once may be replacing each other's config and key: that is over in a moment.
            Err(RepositoryError::Damaged { .. }) if looks < MOST_LOOKS => sleep(BETWEEN_LOOKS).await,
            unlocked => return unlocked.map(|unlocked| (unlocked, config)),
        }
        looks += 1;
    }
}

async fn read_config(store: &Store) -> Result<Bytes, RepositoryError> {
    let config = store.read(Kind::Config, &Id::default()).await?;
    config.ok_or_else(|| RepositoryError::NotFound { place: store.place().to_owned() })
}

/// The config was read before the keys are: a key is there before the config that needs it.
async fn unlock_config(store: &Store, access: &Access, config: &Bytes) -> Result<Opened, RepositoryError> {
    let keys = sorted_keys(store).await?;
    let mut opened_one = false;
    let mut unreadable = None;
    let untrimmed = access.untrimmed_password.as_ref().map(|password| (password, false));
    for (password, is_trimmed) in [Some((&access.password, true)), untrimmed].into_iter().flatten() {
        for id in &keys {
            match open_key(store, password, id).await {
                Ok(Some(master)) => {
                    opened_one = true;
                    let config = Cipher::of(&master).and_then(|cipher| cipher.decrypt_file(config));
                    if let Ok(config) = config {
                        let config = serde_json::from_slice(&config);
                        let config = config.map_err(|error| store.damaged(format!("its config is broken: {error}")))?;
                        if !is_trimmed {
                            tracing::warn!(
                                "the password opens the repository only with the white space or byte order mark around it, \
                                 which restic leaves out of a password file; add a key without them by `stowaway key add`"
                            );
                        }
                        return Ok((master, *id, config));
                    }
                }
                Ok(None) => {}
                Err(error @ RepositoryError::Damaged { .. }) => unreadable = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    Err(match unreadable {
        _ if keys.is_empty() => store.damaged("it has a config and no key"),
        _ if opened_one => store.damaged("the password opens a key that does not open the config"),
        Some(error) => error,
        None => RepositoryError::WrongPassword { place: store.place().to_owned() },
    })
}

async fn sorted_keys(store: &Store) -> Result<Vec<Id>, RepositoryError> {
    let mut keys: Vec<Id> = store.list_in_new_place(Kind::Key).await?.into_iter().map(|(id, _)| id).collect();
    keys.sort_unstable();
    Ok(keys)
}

async fn open_first(store: &Store, access: &Access, keys: &[Id]) -> Result<Option<MasterKey>, RepositoryError> {
    for id in keys {
        if let Some(master) = open_key(store, &access.password, id).await? {
            return Ok(Some(master));
        }
    }
    Ok(None)
}

pub(super) async fn open_key(store: &Store, password: &Secret, id: &Id) -> Result<Option<MasterKey>, RepositoryError> {
    let path = Kind::Key.path(id);
    // Gone since the listing.
    let Some(content) = store.read(Kind::Key, id).await? else { return Ok(None) };
    if crypto::id_of(&content) != *id {
        return Err(store.damaged(format!("{path} is not what was written")));
    }
    let password = password.clone();
    spawn_blocking(move || crypto::open_key_file(&content, &password))
        .await
        .map_err(|panic| internal(store, panic))?
        .map_err(|error| store.damaged(format!("{path}: {error}")))
}

pub(super) async fn write_key(store: &Store, access: &Access, master: &MasterKey) -> Result<Id, RepositoryError> {
    let (master, password, holder) = (master.clone(), access.password.clone(), access.holder.clone());
    let content: Bytes = spawn_blocking(move || crypto::make_key_file(&master, &password, &holder, Timestamp::now()))
        .await
        .map_err(|panic| internal(store, panic))?
        .map_err(|error| internal(store, error))?
        .into();
    let id = crypto::id_of(&content);
    store.write(Kind::Key, &id, vec![content], Write::Replace).await?;
    Ok(id)
}

/// Lets the engine make a config (it chooses the chunker's polynomial), and hands it over instead of writing it.
async fn new_config(store: &Store, master: MasterKey) -> Result<Bytes, RepositoryError> {
    let made = Arc::new(NewConfig::default());
    let writes: Arc<dyn Writes> = Arc::<NewConfig>::clone(&made);
    engine::run(
        store,
        writes,
        Arc::new(FirstError::default()),
        |what| internal(store, what),
        move |engine| {
            let credentials = Credentials::Masterkey(master);
            engine.repository()?.init(&credentials, &KeyOptions::default(), &ConfigOptions::default()).map(drop)
        },
    )
    .await?;
    let config = made.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    config.ok_or_else(|| internal(store, "the engine made no config"))
}

#[derive(Debug, Default)]
struct NewConfig(Mutex<Option<Bytes>>);

impl Writes for NewConfig {
    /// Another process may be faster by now; that is found out by the write.
    fn shows_repository(&self) -> bool {
        false
    }

    fn write(&self, kind: Kind, content: Vec<Bytes>) -> Result<(), RepositoryError> {
        if kind == Kind::Config {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(content.concat().into());
            return Ok(());
        }
        Err(RepositoryError::InvalidRequest(format!("the engine tried to write a {kind:?} into a new repository")))
    }
}
