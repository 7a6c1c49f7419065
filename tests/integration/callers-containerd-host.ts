/** Debian's containerd with the runtime under test behind its runc-v2 shim. In: a place of its own. Out: the daemon and its configuration. */
import { readFileSync } from 'node:fs';
import { type CallerPlace, run, runtime } from './callers-host.ts';
import { Layout } from './image-host.ts';

/** With busybox and two users; its command sleeps, so it serves as a sandbox image too. */
export const image = 'localhost/busybox:1';
export const socket = '/run/containerd/containerd.sock';

/** containerd with everything in the place. CRI pods get the network of the host. */
export async function startContainerd(place: CallerPlace): Promise<void> {
  const lines = [
    'version = 2',
    `root = "${place.scratch('containerd')}"`,
    'state = "/run/containerd"',
    'disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]',
    '[grpc]',
    `address = "${socket}"`,
    '[plugins."io.containerd.grpc.v1.cri"]',
    `sandbox_image = "${image}"`,
    'restrict_oom_score_adj = true',
    '[plugins."io.containerd.grpc.v1.cri".cni]',
    `conf_dir = "${place.scratch('net.d')}"`,
    '[plugins."io.containerd.grpc.v1.cri".containerd]',
    'default_runtime_name = "tested"',
    '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested]',
    'runtime_type = "io.containerd.runc.v2"',
    '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested.options]',
    `BinaryName = "${runtime}"`,
    'SystemdCgroup = false',
  ];
  const config = place.write('containerd.toml', `${lines.join('\n')}\n`);
  await place.startService('containerd', ['containerd', '-c', config, '-l', 'error'], async () => (await run(['ctr', '-a', socket, 'version'])).status === 0);
}

/** The image as an archive that containerd imports. */
export async function writeArchive(place: CallerPlace): Promise<string> {
  const layout = new Layout(place.scratch('layout'));
  layout.add(layout.manifest({ layers: [readFileSync(place.tar())], compression: 'none', config: { Env: ['PATH=/bin'], Cmd: ['sleep', '100000'] } }), image);
  const archive = `${place.directory}/image.tar`;
  await run(['tar', '-C', layout.dir, '-cf', archive, '.']);
  return archive;
}
