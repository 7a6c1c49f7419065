/**
 * Documents for the OCI runtime that nobody would write: a full config.json with one to three places altered. In: a seed. Out: plain values,
 * the same ones for the same seed, with a sentence of what was done. No I/O.
 */

/** A generator of numbers in [0, 1) that gives the same row for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type JsonObject = { [key: string]: Json };

/** A document that uses every part of the specification that most hosts can do; `rootPath` is its root, `args` what it runs. */
export function fullConfig(rootPath: string, args: readonly string[]): JsonObject {
  const capabilities = ['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID'];
  return {
    ociVersion: '1.2.0',
    hostname: 'mutant',
    domainname: 'example.test',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0, umask: 18, additionalGids: [5, 6] },
      args: [...args],
      env: ['PATH=/bin:/usr/bin', 'TERM=xterm'],
      cwd: '/',
      capabilities: { bounding: [...capabilities], effective: [...capabilities], permitted: [...capabilities], inheritable: [], ambient: [] },
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 256, hard: 512 }],
      noNewPrivileges: true,
      oomScoreAdj: 100,
    },
    root: { path: rootPath, readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'] },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev', 'size=1m'] },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
    ],
    annotations: { 'org.example.key': 'value' },
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }, { type: 'network' }],
      devices: [{ path: '/dev/other-null', type: 'c', major: 1, minor: 3, fileMode: 438, uid: 0, gid: 0 }],
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        memory: { limit: 67108864, reservation: 33554432 },
        cpu: { shares: 512, quota: 50000, period: 100000 },
        pids: { limit: 64 },
      },
      sysctl: { 'net.ipv4.ip_forward': '0' },
      maskedPaths: ['/proc/kcore', '/proc/keys'],
      readonlyPaths: ['/proc/sys', '/proc/irq'],
      rootfsPropagation: 'rprivate',
      seccomp: {
        defaultAction: 'SCMP_ACT_ALLOW',
        architectures: ['SCMP_ARCH_X86_64'],
        syscalls: [{ names: ['kexec_load'], action: 'SCMP_ACT_ERRNO', errnoRet: 1, args: [{ index: 0, value: 1, valueTwo: 0, op: 'SCMP_CMP_EQ' }] }],
      },
    },
  };
}

/** Values that stand where another kind was meant, or beyond every bound. */
const strangers: readonly Json[] = [
  null,
  true,
  false,
  0,
  -1,
  1.5,
  4294967296,
  -2147483649,
  1e30,
  '',
  '..',
  '../../etc',
  '/..',
  'relative/path',
  '/proc/self/exe',
  '/proc/self/fd/7',
  'a\u0000b',
  '\u001b[2J\nforged',
  'x'.repeat(5000),
  '18446744073709551615',
  'SCMP_ACT_PERHAPS',
  'CAP_EVERYTHING',
  [],
  [[]],
  [null],
  ['', ''],
  {},
  { path: '/' },
  { type: 'pid', path: '/proc/1/ns/pid' },
];
const strangeKeys: readonly string[] = ['__proto__', 'constructor', 'unknownField', 'uid', 'path', 'type', 'hooks', 'intelRdt', ''];

interface Place {
  readonly holder: JsonObject | Json[];
  readonly key: string;
  readonly path: string;
}

function placesOf(value: Json, path: string): readonly Place[] {
  if (value === null || typeof value !== 'object') return [];
  const holder = value;
  return Object.entries(holder).flatMap(([key, child]) => {
    const place = path === '' ? key : `${path}.${key}`;
    return [{ holder, key, path: place }, ...placesOf(child, place)];
  });
}

function put({ holder, key }: Place, value: Json): void {
  if (Array.isArray(holder)) holder[Number(key)] = value;
  else Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true });
}

function alter(document: JsonObject, random: () => number): string {
  const places = placesOf(document, '');
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];
  const place = pick(places);
  if (place === undefined) return 'nothing is left';
  const { holder, key, path } = place;
  const old = Array.isArray(holder) ? (holder[Number(key)] ?? null) : (holder[key] ?? null);
  switch (Math.floor(random() * 6)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1);
      else delete holder[key];
      return `${path} is left out`;
    case 1:
      if (Array.isArray(holder)) holder.push(structuredClone(old));
      else put({ holder, key: pick(strangeKeys) ?? '', path }, structuredClone(old));
      return `${path} stands there twice`;
    case 2: {
      const other = pick(places);
      if (other === undefined) return 'nothing is left';
      const value = Array.isArray(other.holder) ? (other.holder[Number(other.key)] ?? null) : (other.holder[other.key] ?? null);
      put(place, structuredClone(value));
      return `${path} has what ${other.path} has`;
    }
    case 3: {
      let deep: Json = 'deep';
      for (let depth = 0; depth < 500; depth += 1) deep = random() < 0.5 ? [deep] : { a: deep };
      put(place, deep);
      return `${path} is 500 deep`;
    }
    default: {
      const stranger = pick(strangers) ?? null;
      put(place, structuredClone(stranger));
      return `${path} is ${JSON.stringify(stranger).slice(0, 60)}`;
    }
  }
}

/** The document of a seed, as text, and what was done to it. */
export function mutantOf(seed: number, base: JsonObject): { readonly text: string; readonly changes: readonly string[] } {
  const random = randomOf(seed);
  const document = structuredClone(base);
  const changes = Array.from({ length: 1 + Math.floor(random() * 3) }, () => alter(document, random));
  return { text: JSON.stringify(document), changes };
}
