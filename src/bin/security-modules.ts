/**
 * What AppArmor and SELinux of this node offer to containers. In: the kernel's modules, the node's files, the AppArmor compiler where one is installed. Out: what
 * the engine's defaults say of them. The default profile is loaded when a container needs it and the kernel does not have it.
 */
import { access, readFile } from 'node:fs/promises';
import type { SpecDefaults } from '#pod';
import { decodeSelinuxContexts, defaultApparmorProfile } from '#runtime';
import type { HostFacts, Launcher } from '#system';

const profilesFile = '/sys/kernel/security/apparmor/profiles';
const compilers = ['/usr/sbin/apparmor_parser', '/sbin/apparmor_parser'];
const compileTimeoutMs = 60_000;
const compilerOutputBytesMax = 4096;

async function isLoaded(name: string): Promise<boolean> {
  const profiles = await readFile(profilesFile, 'utf8').catch(() => '');
  return profiles.split('\n').some((line) => line.startsWith(`${name} (`));
}

async function firstExisting(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    const exists = await access(path).then(
      () => true,
      () => false,
    );
    if (exists) return path;
  }
  return undefined;
}

/** What loading a profile needs to know of the node. */
interface ProfileNode {
  /** Whether the kernel has a profile of this name. */
  readonly isLoaded: (name: string) => Promise<boolean>;
  /** Path of the compiler; undefined where none is installed. */
  readonly findCompiler: () => Promise<string | undefined>;
}

const thisNode: ProfileNode = { isLoaded, findCompiler: async () => firstExisting(compilers) };

/** Loads the default profile unless the kernel has it. Gives undefined, and tells why, where that cannot be done. */
async function loadDefaultProfile(launcher: Pick<Launcher, 'runTool'>, report: (error: unknown) => void, node: ProfileNode): Promise<string | undefined> {
  const { name, text } = defaultApparmorProfile;
  if (await node.isLoaded(name)) return name;
  const path = await node.findCompiler();
  if (path === undefined) return undefined;
  try {
    const { exitCode, stderr } = await launcher.runTool({
      path,
      argv: ['apparmor_parser', '--replace', '--skip-cache'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
      stdin: Buffer.from(text),
      timeoutMs: compileTimeoutMs,
      stdoutBytesMax: compilerOutputBytesMax,
      stderrBytesMax: compilerOutputBytesMax,
    });
    if (exitCode === 0) return name;
    report(new Error(`load AppArmor profile ${name}: ${path} ended with ${exitCode}: ${Buffer.from(stderr).toString().trim()}`));
  } catch (error) {
    report(error);
  }
  return undefined;
}

/**
 * The question for the default profile. Whoever asks at the same time shares one answer; later the kernel is asked again, as profiles are unloaded when the
 * node's own are loaded anew, and a failure need not last.
 */
export function defaultProfileLoader(launcher: Pick<Launcher, 'runTool'>, report: (error: unknown) => void, node: ProfileNode = thisNode): () => Promise<string | undefined> {
  let loading: Promise<string | undefined> | undefined;
  return async () =>
    (loading ??= loadDefaultProfile(launcher, report, node).finally(() => {
      loading = undefined;
    }));
}

async function readSelinux(): Promise<SpecDefaults['selinux']> {
  const enabled = await firstExisting(['/sys/fs/selinux/enforce']);
  if (enabled === undefined) return undefined;
  const configuration = await readFile('/etc/selinux/config', 'utf8').catch(() => '');
  const policy = /^SELINUXTYPE=([A-Za-z0-9_-]+)\s*$/m.exec(configuration)?.[1] ?? 'targeted';
  return decodeSelinuxContexts(await readFile(`/etc/selinux/${policy}/contexts/lxc_contexts`, 'utf8').catch(() => ''));
}

/** The part of the engine's defaults that security modules decide. */
export async function securityDefaults(
  host: Pick<HostFacts, 'securityModules'>,
  launcher: Pick<Launcher, 'runTool'>,
  report: (error: unknown) => void,
): Promise<Pick<SpecDefaults, 'apparmor' | 'selinux'>> {
  const apparmor = { defaultProfile: defaultProfileLoader(launcher, report) };
  const selinux = host.securityModules.includes('selinux') ? await readSelinux() : undefined;
  return { ...(host.securityModules.includes('apparmor') ? { apparmor } : {}), ...(selinux === undefined ? {} : { selinux }) };
}
