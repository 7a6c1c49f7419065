/** `berth explain` of an OCI bundle: its config.json as a plan, without running it. */
import { readFile, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { RuntimeError, wrapError } from '#core';
import { decodeRuntimeSpec } from '#oci';
import { explainPlan } from '#plan';
import { planContainer } from '#runtime';
import { readHostFacts } from '#system';

/** `path` is a bundle directory or its config.json. Throws notFound, invalidArgument with the document's path. */
export async function explainBundle(path: string, { showSecrets }: { readonly showSecrets: boolean }): Promise<readonly string[]> {
  const found = await stat(path).catch((error: unknown) => {
    throw wrapError(`explain ${path}`, error);
  });
  const file = found.isDirectory() ? `${path}/config.json` : path;
  const bundle = resolve(dirname(file));
  try {
    const spec = decodeRuntimeSpec(JSON.parse(await readFile(file, 'utf8')));
    const rootPath = resolve(bundle, spec.root.path);
    const plan = planContainer({
      spec,
      bundle,
      rootfs: { kind: 'directory', path: rootPath },
      host: readHostFacts(),
      cgroup: { path: spec.linux.cgroupsPath ?? '/berth/bundle' },
      askIdentity: false,
    });
    return explainPlan(plan, { showSecrets });
  } catch (error) {
    throw wrapError(`explain ${file}`, error, error instanceof RuntimeError ? undefined : 'invalidArgument');
  }
}
