/** What the tests of volumes from images share: images made for them, and what containers print. In: a host. Out: images in its store, lines. */
import { Layout, tarOf } from './image-host.ts';
import { type BerthHost, type Finished, busybox, manifest, shellContainer } from './berth-host.ts';

/** The image whose content is mounted: two layers, links of all kinds, a program, a device. */
export const data = 'localhost/data:1';
/** Volume of a manifest with that image. */
export const dataVolume = { name: 'data', image: { reference: data, pullPolicy: 'Never' } };
/** Shell commands for files with an owner and modes of their own below `data`. */
export const owned =
  'mkdir -p data/inner plain; echo kept > data/inner/file; ln -s inner/file data/link; chown -R 1234:2345 data; chmod 2750 data; chmod 600 data/inner/file; mkfifo data/fifo';

/** A volume mount of the image `data`. */
export function mount(mountPath: string, subPath?: string): Record<string, unknown> {
  return { name: 'data', mountPath, ...(subPath === undefined ? {} : { subPath }) };
}

/** What a container wrote, from the output of `berth run` of a manifest. */
export function linesOf(stdout: string, container: string): string[] {
  return stdout.split('\n').flatMap((line) => new RegExp(`^${container} *\\| (.*)$`).exec(line)?.[1] ?? []);
}

/** An image with busybox, the files that a script makes in its root, and declared volumes; named `localhost/<name>:1`. */
export interface DeclaringImage {
  readonly name: string;
  readonly script: string;
  readonly volumes: readonly string[];
}

/** Imports the image `data` and others, all at once. */
export async function importImages(host: BerthHost, declaring: readonly DeclaringImage[] = []): Promise<void> {
  const base = tarOf(
    `mkdir -p models/deep bin etc; echo a > models/a; echo b > models/deep/b; echo gone > models/gone; ln -s /models absolute; ln -s ../../../../../../etc up
     echo of-the-image > etc/passwd; printf '#!%s sh\\necho executed\\n' ${busybox} > bin/tool; chmod 4755 bin/tool; mknod bin/device c 1 5; ln -s /proc proc-link`,
  );
  const top = tarOf('mkdir models; : > models/.wh.gone; echo c > models/c');
  const layout = new Layout(host.scratch(`layout-${process.hrtime.bigint()}`));
  layout.add(layout.manifest({ layers: [base, top] }), data);
  const programs = declaring.length === 0 ? undefined : tarOf(`mkdir -p ./$(dirname ${busybox}) etc; cp ${busybox} .${busybox}`);
  for (const { name, script, volumes } of declaring) {
    const files = tarOf(`mkdir -p etc; ${script}`);
    const config = { Volumes: Object.fromEntries(volumes.map((path) => [path, {}])) };
    layout.add(layout.manifest({ layers: programs === undefined ? [files] : [programs, files], compression: 'none', config }), `localhost/${name}:1`);
  }
  await host.ok(['image', 'import', layout.dir]);
}

/** Runs a script in a container of a declaring image, whose root is read-only. */
export async function runDeclaring(
  host: BerthHost,
  name: string,
  script: string,
  more: Record<string, unknown> = {},
  volumes: readonly object[] = [],
): Promise<Finished & { readonly lines: readonly string[] }> {
  const container = shellContainer('main', script, { image: `localhost/${name}:1`, securityContext: { readOnlyRootFilesystem: true }, ...more });
  const finished = await host.berth(['run', '-'], manifest({ volumes, containers: [container] }));
  return { ...finished, lines: linesOf(finished.stdout, 'main') };
}
