/** What of CNI is there to use. In: directories. Out: the network that pods would get, or why none. For doctor; keeps nothing and attaches nobody. */
import { errorMessage } from '#core';
import { CniDirectory } from './cni-directory.ts';
import { CniPlugins, type CniPluginsParts } from './cni-plugins.ts';
import { printable } from './cni-result.ts';

/** Reads the configuration, asks the plugins for their versions and their status. Never throws. */
export async function probeCni(parts: CniPluginsParts & { readonly configDir: string }): Promise<{ readonly ready: boolean; readonly detail: string }> {
  const plugins = new CniPlugins(parts);
  const found = await new CniDirectory({ files: parts.files, plugins, directory: parts.configDir }).read();
  if (found.kind === 'notReady') return { ready: false, detail: found.message };
  const { list, path } = found;
  try {
    await plugins.status(list);
  } catch (error) {
    return { ready: false, detail: printable(errorMessage(error)) };
  }
  return { ready: true, detail: `CNI ${list.cniVersions[0]} network ${list.name} of ${path}: ${list.plugins.map(({ type }) => type).join(', ')}` };
}
