/**
 * How the layers of a store speak to overlays. In: what the store was asked for, and what its file system and kernel can do, found by trying.
 * Out: the style that its layers are unpacked in. A store keeps one kind for life: an overlay reads either the attributes of the host's root or those
 * that any user may set.
 */
import { lstat, mkdir } from 'node:fs/promises';
import { type Records, RuntimeError, errnoName, wrapError } from '#core';
import { type LayerRecord, type OverlayStyle, type Step, clone, encodeLayerRecord, errno, ms, noSlot, open } from '#plan';
import { openUnpackSession } from '#system';
import type { ImageStoreOptions } from './types.ts';

const recordKind = 'imageOverlayStyle';
const recordId = 'attributes';

type StyleOptions = Pick<ImageStoreOptions, 'stateDir' | 'records' | 'launcherSocket' | 'runOnHost' | 'overlayAttributes'>;

/** Holds the store to its kind of attributes. Throws failedPrecondition where its layers are of the other kind. */
export function assertAttributes(records: Records, wanted: 'trusted' | 'user', hasLayers: boolean): void {
  const known = records.get(recordKind, recordId) ?? (hasLayers ? 'trusted' : wanted);
  if (known !== wanted && hasLayers)
    throw new RuntimeError(
      'failedPrecondition',
      `its layers are marked by ${JSON.stringify(known)} attributes and cannot be used with ${wanted} ones; another directory is needed`,
    );
  if (records.get(recordKind, recordId) !== wanted) records.put(recordKind, recordId, wanted);
}

/** The style for new layers. Throws failedPrecondition where whiteouts can be made in no way that this kernel reads. */
export async function chooseOverlayStyle(options: StyleOptions): Promise<OverlayStyle> {
  if ((options.overlayAttributes ?? 'trusted') === 'trusted') return 'trusted';
  const place = `${options.stateDir}/unpack/style`;
  const remove = async (): Promise<void> => options.runOnHost({ sections: [{ actor: 'host', steps: [{ kind: 'removeTree', dir: noSlot, path: place }] }] });
  try {
    await remove();
    await mkdir(place, { mode: 0o700 });
    if (await makesDevices(options, place)) return 'user';
    if (await readsFiles(options, place)) return 'userFiles';
  } catch (error) {
    throw wrapError('try how whiteouts can be made', error);
  } finally {
    await remove();
  }
  throw new RuntimeError('failedPrecondition', `layers cannot be unpacked in ${options.stateDir}: it takes no whiteouts as devices, and this kernel reads no other ones`);
}

async function makesDevices({ runOnHost }: StyleOptions, place: string): Promise<boolean> {
  const steps: readonly Step[] = [
    {
      kind: 'makeNode',
      dir: noSlot,
      path: `${place}/device`,
      mode: 0o020000,
      major: 0,
      minor: 0,
      uid: 0,
      gid: 0,
      ignore: [errno.perm, errno.access, errno.invalid, errno.notSupported],
    },
  ];
  await runOnHost({ sections: [{ actor: 'host', steps }] });
  return exists(`${place}/device`);
}

const plain = { mode: 0o755, uid: 0, gid: 0, mtimeNs: 0n, xattrs: [] };

/** Unpacks a whiteout over a file, and looks through an overlay whether the file is hidden: then there is no file `shown`. */
async function readsFiles({ runOnHost, launcherSocket }: StyleOptions, place: string): Promise<boolean> {
  const layers: Readonly<Record<string, readonly LayerRecord[]>> = {
    below: [{ op: 'file', path: 'hidden', ...plain, size: 0n }],
    above: [
      { op: 'style', style: 'userFiles' },
      { op: 'whiteout', path: 'hidden' },
    ],
  };
  for (const name of ['merged', 'root']) await mkdir(`${place}/${name}`);
  for (const [name, records] of Object.entries(layers)) {
    await mkdir(`${place}/${name}`);
    const session = await openUnpackSession(launcherSocket, { layerDir: `${place}/${name}`, rootDir: `${place}/root` });
    await session.write([...records, { op: 'finish' } as const].map(encodeLayerRecord));
    await session.finish();
  }
  const steps: readonly Step[] = [
    { kind: 'unshare', flags: clone.newMount },
    { kind: 'setPropagation', path: '/', flags: ms.private | ms.recursive },
    { kind: 'mount', cwd: place, source: 'overlay', target: 'merged', type: 'overlay', flags: ms.readOnly, data: 'lowerdir=above:below,userxattr' },
    { kind: 'openPath', dir: noSlot, path: `${place}/merged/hidden`, flags: open.path, mode: 0, resolve: 0, out: 64, ignore: [errno.noEntry], skipOnIgnored: 1 },
    { kind: 'makeFile', dir: noSlot, path: `${place}/shown`, mode: 0o600, data: new Uint8Array() },
  ];
  await runOnHost({ sections: [{ actor: 'podNamespaces', steps }] });
  return !(await exists(`${place}/shown`));
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return false;
    throw error;
  }
}
