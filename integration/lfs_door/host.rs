//! The git door's host for large files, too: a directory of files for each volume.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use cellfs::base::id::VolumeName;
use cellfs::doors::git::{Access, GitHost};
use cellfs::doors::lfs::{LfsHost, LfsId, LfsRefusal, Presence, Source};
use tempfile::TempPath;

use crate::git_door::host::{Host, Served};

struct Plain(File, u64);

impl Source for Plain {
    fn len(&self) -> u64 {
        self.1
    }

    fn read(&mut self, at: u64, most: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; most];
        let n = self.0.read_at(&mut bytes, at)?;
        bytes.truncate(n);
        Ok(bytes.into())
    }
}

fn path(host: &Host, volume: &VolumeName, id: LfsId) -> PathBuf {
    dir(host, volume).join("objects").join(id.to_string())
}

fn dir(host: &Host, volume: &VolumeName) -> PathBuf {
    host.dir.join(format!("{volume}.lfs"))
}

#[async_trait]
impl LfsHost for Host {
    async fn access(&self, token: &str) -> Access {
        GitHost::access(self, token).await
    }

    async fn dir(&self, volume: &VolumeName, create: bool) -> Result<PathBuf, LfsRefusal> {
        let repo = GitHost::repo(self, volume, create).await;
        repo.map_err(|_| LfsRefusal::NotFound(volume.clone()))?;
        let dir = dir(self, volume);
        std::fs::create_dir_all(dir.join("objects")).expect("made");
        Ok(dir)
    }

    async fn presence(
        &self,
        volume: &VolumeName,
        ids: Vec<LfsId>,
        _proven: bool,
    ) -> Result<Vec<Presence>, LfsRefusal> {
        self.dir(volume, false).await?;
        let of = |id: &LfsId| {
            let meta = std::fs::metadata(path(self, volume, *id));
            meta.map_or(Presence::Absent, |m| Presence::Here(m.len()))
        };
        Ok(ids.iter().map(of).collect())
    }

    async fn open(&self, volume: &VolumeName, id: LfsId) -> Result<Box<dyn Source>, LfsRefusal> {
        self.dir(volume, false).await?;
        let file = File::open(path(self, volume, id)).map_err(|_| LfsRefusal::Absent(id))?;
        let len = file.metadata().expect("a file").len();
        Ok(Box::new(Plain(file, len)))
    }

    async fn take(&self, volume: &VolumeName, id: LfsId, file: TempPath) -> Result<(), LfsRefusal> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(LfsRefusal::Full);
        }
        std::fs::rename(&file, path(self, volume, id)).expect("moved");
        file.keep().expect("kept");
        Ok(())
    }
}

impl Served {
    /// What is kept of a volume's large files.
    pub(crate) fn lfs(&self, volume: &str) -> PathBuf {
        self.host.dir.join(format!("{volume}.lfs"))
    }

    /// The names of the objects of a volume, and how many files are coming.
    pub(crate) fn objects(&self, volume: &str) -> (Vec<String>, usize) {
        let names = |dir: &Path| {
            let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let mut all: Vec<_> = all
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            all.sort();
            all
        };
        let lfs = self.lfs(volume);
        (
            names(&lfs.join("objects")),
            names(&lfs.join("incoming")).len(),
        )
    }
}
