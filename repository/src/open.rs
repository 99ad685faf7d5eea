//! Creating and opening a repository: key files, the config, and races between processes that create it at the same
//! time.
//!
//! The config is written once, by the first process. A key file is written before the config that needs it, so an
//! interrupted creation leaves a key without a config. The next creation uses that key if its password opens it.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    OpenOptions, Repository, RepositoryError,
    crypto::{self, Cipher, CryptoError},
    format::{ConfigFile, Id, MasterKey},
    lock::{self, LockRequest, Purpose, Unlock, Unlocked},
    polynomial,
    store::{Kind, Store, Write},
};
use stowaway_model::Secret;

/// How many times the config is read, because processes that create the repository at the same time may replace it.
const MAX_ATTEMPTS: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Creates a repository of format 2 with one key, and opens it.
///
/// Errors: [`RepositoryError::AlreadyExists`], also if another process created it first, and the errors of [`open`].
pub async fn create(access: OpenOptions, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    // The id of a new repository cannot be one of the expected ids.
    let access = OpenOptions { expected_ids: Vec::new(), ..access };
    let store = Store::new(&access, cancel)?;
    let exists = || RepositoryError::AlreadyExists { location: store.location().to_owned() };
    let keys = sorted_keys(&store).await?;
    if store.stat(Kind::Config, &Id::default()).await?.is_some() {
        return Err(exists());
    }
    if !store.list_in_new_store(Kind::Snapshot).await?.is_empty() {
        return Err(store.damaged("it holds snapshots and no config"));
    }
    store.prepare().await?;
    let (master, mut own_key) = if keys.is_empty() {
        let master = MasterKey::new();
        let key = write_key(&store, &access, &master).await?;
        // Other processes may have written keys meanwhile. All processes choose the first key that the
        // password opens, so processes that see each other's keys agree on one.
        let keys = sorted_keys(&store).await?;
        (open_first(&store, &access, &keys).await?.unwrap_or(master), Some(key))
    } else {
        let existing = open_first(&store, &access, &keys).await?;
        let existing =
            existing.ok_or_else(|| RepositoryError::WrongPassword { location: store.location().to_owned() })?;
        (existing, None)
    };
    let config = new_config(&Cipher::of(&master)).map_err(|error| store.internal(error))?;
    // The result is ignored: after a lost acknowledgement a retry finds the config that this process has written
    // itself.
    store.write(Kind::Config, &Id::default(), vec![config.clone()], Write::CreateNew).await?;
    if !has_created(&store, &access, &master, &config, &mut own_key).await? {
        return Err(exists());
    }
    let repository = finish_opening(store.clone(), access.clone(), Purpose::Write).await?;
    // Check again after the delay that taking the lock includes, because some stores implement "only if absent" as a
    // check followed by a replacing write.
    if !has_created(&store, &access, &master, &config, &mut own_key).await? {
        repository.close().await;
        return Err(exists());
    }
    Ok(repository)
}

/// Whether this process has created the repository: the stored config is the one that it wrote.
///
/// If so, this makes sure that a key opens the config: it writes another key if the other process has removed the
/// shared one. In any case it removes this process's own key if that key is not used for the stored config, because
/// restic tries only the first key that the password opens.
async fn has_created(
    store: &Store,
    access: &OpenOptions,
    master: &MasterKey,
    config: &Bytes,
    own_key: &mut Option<Id>,
) -> Result<bool, RepositoryError> {
    let found = read_config(store).await?;
    let has_created = found == *config;
    let used = match unlock_config(store, access, &found).await {
        Ok((_, used, _)) => Some(used),
        Err(RepositoryError::Damaged { .. } | RepositoryError::WrongPassword { .. }) if has_created => {
            Some(write_key(store, access, master).await?)
        }
        Err(RepositoryError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(key) = own_key.take_if(|key| used != Some(*key)) {
        store.remove(Kind::Key, &key).await?;
    }
    Ok(has_created)
}

/// Opens a repository and takes a shared lock, which is held until the repository is closed or dropped.
///
/// Errors: [`RepositoryError::NotFound`], only if the store reports that there is no repository;
/// [`RepositoryError::Changed`] if the repository has another id than expected, and then nothing was written;
/// [`RepositoryError::WrongPassword`]; [`RepositoryError::Locked`]; and the errors of the store.
pub async fn open(access: OpenOptions, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Write).await
}

/// Opens a repository for reading. Nothing may be stored in a repository that was opened with this function.
///
/// It differs from [`open`] in its treatment of an exclusive lock whose holder is a Stowaway process that has stopped,
/// such as a prune on a node that was lost: it waits only until it is certain that the holder has stopped, not until
/// the lock is stale. And it does not need its own lock: if the store refuses writes, because it is read-only or the
/// credentials may only read, the repository is open without one, see [`Repository::lock_note`]. The errors are those
/// of [`open`].
pub async fn open_to_read(access: OpenOptions, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Read).await
}

/// Opens a repository with an exclusive lock, which excludes readers and writers: for removing data. The errors are
/// those of [`open`]; any lock of another client conflicts.
pub async fn open_exclusively(access: OpenOptions, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    finish_opening(store, access, Purpose::Remove).await
}

/// Removes locks without taking one, and reports which locks it removed.
pub async fn remove_locks(
    access: OpenOptions,
    cancel: CancellationToken,
    which: Unlock,
) -> Result<Unlocked, RepositoryError> {
    let store = Store::new(&access, cancel)?;
    let ((master, _, _), _) = unlock(&store, &access).await?;
    let cipher = Cipher::of(&master);
    lock::remove_locks(&store, &cipher, &*access.locks.probe, which).await
}

/// Opens a repository, or creates it if there is none.
pub async fn open_or_create(access: OpenOptions, cancel: CancellationToken) -> Result<Repository, RepositoryError> {
    match open(access.clone(), cancel.clone()).await {
        Err(RepositoryError::NotFound { .. } | RepositoryError::Lost { .. }) => {
            match create(access.clone(), cancel.clone()).await {
                Err(RepositoryError::AlreadyExists { .. }) => open(access, cancel).await,
                created => created,
            }
        }
        opened => opened,
    }
}

async fn finish_opening(store: Store, access: OpenOptions, purpose: Purpose) -> Result<Repository, RepositoryError> {
    let mut attempts = 1;
    loop {
        let (repository, sealed) = lock_and_open(&store, &access, purpose).await?;
        // Data that is stored under a config which another process then replaces could never be read again.
        if read_config(&store).await? == sealed {
            return Ok(repository);
        }
        repository.close().await;
        if attempts == MAX_ATTEMPTS {
            return Err(store.damaged("its config changes again and again"));
        }
        attempts += 1;
    }
}

/// Opens the repository with the current config, and returns the config as it is stored, too.
async fn lock_and_open(
    store: &Store,
    access: &OpenOptions,
    purpose: Purpose,
) -> Result<(Repository, Bytes), RepositoryError> {
    let ((master, key, config), sealed) = unlock(store, access).await?;
    if !(1..=2).contains(&config.version) {
        let what = format!("the repository at {} has the unknown format {}", store.location(), config.version);
        return Err(RepositoryError::InvalidRequest(what));
    }
    let id = config.id.to_hex();
    // This check precedes every write.
    if !access.expected_ids.is_empty() && !access.expected_ids.contains(&id) {
        let (location, expected) = (store.location().to_owned(), access.expected_ids.join(" or "));
        return Err(RepositoryError::Changed { location, expected, found: id });
    }
    let cipher = Cipher::of(&master);
    let request = LockRequest {
        store: store.clone(),
        cipher: cipher.clone(),
        version: config.version,
        holder: access.holder.clone(),
        purpose,
    };
    let lock = request.take(&access.locks).await?;
    // An invalid polynomial is reported when something is to be stored. Other operations do not need it.
    let polynomial = config.polynomial().unwrap_or_default();
    let version = config.version;
    // The store has answered the write of the lock, so it is reachable.
    let store = store.reached();
    let damaged_packs = access.damaged_packs.clone();
    let repository = Repository { store, master, cipher, version, polynomial, id, key, damaged_packs, lock };
    Ok((repository, sealed))
}

/// The master key that decrypts the config, the key file which contains the master key, and the config.
type Opened = (MasterKey, Id, ConfigFile);

/// Finds the key that the password opens and decrypts the config with it. Also returns the config as it is stored.
async fn unlock(store: &Store, access: &OpenOptions) -> Result<(Opened, Bytes), RepositoryError> {
    let mut attempts = 1;
    loop {
        let config = read_config(store).await.map_err(|error| match error {
            RepositoryError::NotFound { location } if !access.expected_ids.is_empty() => {
                RepositoryError::Lost { location }
            }
            error => error,
        })?;
        match unlock_config(store, access, &config).await {
            // Processes that create the repository at the same time may replace each other's config and key for a
            // moment.
            Err(RepositoryError::Damaged { .. }) if attempts < MAX_ATTEMPTS => sleep(RETRY_DELAY).await,
            unlocked => return unlocked.map(|unlocked| (unlocked, config)),
        }
        attempts += 1;
    }
}

async fn read_config(store: &Store) -> Result<Bytes, RepositoryError> {
    let config = store.read(Kind::Config, &Id::default()).await?;
    config.ok_or_else(|| RepositoryError::NotFound { location: store.location().to_owned() })
}

/// Decrypts a config that the caller has already read. The keys are listed after that, because a key is written before
/// the config that needs it.
async fn unlock_config(store: &Store, access: &OpenOptions, config: &Bytes) -> Result<Opened, RepositoryError> {
    let keys = sorted_keys(store).await?;
    let mut opened_one = false;
    let mut unreadable = None;
    let untrimmed = access.untrimmed_password.as_ref().map(|password| (password, false));
    for (password, is_trimmed) in [Some((&access.password, true)), untrimmed].into_iter().flatten() {
        for id in &keys {
            match open_key(store, password, id).await {
                Ok(Some(master)) => {
                    opened_one = true;
                    let config = Cipher::of(&master).decrypt_file(config);
                    if let Ok(config) = config {
                        let config = serde_json::from_slice(&config);
                        let config = config.map_err(|error| store.damaged(format!("its config is broken: {error}")))?;
                        if !is_trimmed {
                            tracing::warn!(
                                "the password opens the repository only with the white space or byte order mark around \
                                 it, which restic removes from a password file; add a key without them with `stowaway \
                                 key add`"
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
        _ if keys.is_empty() => store.damaged("it has a config but no key"),
        _ if opened_one => store.damaged("the password opens a key that does not decrypt the config"),
        Some(error) => error,
        None => RepositoryError::WrongPassword { location: store.location().to_owned() },
    })
}

async fn sorted_keys(store: &Store) -> Result<Vec<Id>, RepositoryError> {
    let mut keys: Vec<Id> = store.list_in_new_store(Kind::Key).await?.into_iter().map(|(id, _)| id).collect();
    keys.sort_unstable();
    Ok(keys)
}

async fn open_first(store: &Store, access: &OpenOptions, keys: &[Id]) -> Result<Option<MasterKey>, RepositoryError> {
    for id in keys {
        if let Some(master) = open_key(store, &access.password, id).await? {
            return Ok(Some(master));
        }
    }
    Ok(None)
}

pub(super) async fn open_key(store: &Store, password: &Secret, id: &Id) -> Result<Option<MasterKey>, RepositoryError> {
    let path = Kind::Key.path(id);
    // The key was removed after it was listed.
    let Some(content) = store.read(Kind::Key, id).await? else { return Ok(None) };
    if crypto::id_of(&content) != *id {
        return Err(store.damaged(format!("{path} is not what was written")));
    }
    let password = password.clone();
    spawn_blocking(move || crypto::open_key_file(&content, &password))
        .await
        .map_err(|panic| store.internal(panic))?
        .map_err(|error| store.damaged(format!("{path}: {error}")))
}

pub(super) async fn write_key(store: &Store, access: &OpenOptions, master: &MasterKey) -> Result<Id, RepositoryError> {
    let (master, password, holder) = (master.clone(), access.password.clone(), access.holder.clone());
    let content: Bytes = spawn_blocking(move || crypto::make_key_file(&master, &password, &holder, Timestamp::now()))
        .await
        .map_err(|panic| store.internal(panic))?
        .map_err(|error| store.internal(error))?
        .into();
    let id = crypto::id_of(&content);
    store.write(Kind::Key, &id, vec![content], Write::Replace).await?;
    Ok(id)
}

/// Creates the config of a new repository, with a random id and polynomial, and returns it encrypted.
fn new_config(cipher: &Cipher) -> Result<Bytes, CryptoError> {
    let config = ConfigFile::new(Id::random(), polynomial::random());
    let json = serde_json::to_vec(&config).map_err(|error| CryptoError::Format(error.to_string()))?;
    // restic does not decompress a config.
    cipher.encrypt(&json).map(Bytes::from)
}
