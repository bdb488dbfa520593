/** `quantization_config` of the native format, and the grid that it means; docs/format.md. */
import type { Scheme } from 'cherryq/contract';
import { InputError } from '../errors.ts';
import type { Grid, LevelKind } from '../numeric/quantizer.ts';
import { publishedLevels } from '../numeric/quantizer.ts';

/** Value of `quantization_config` in config.json. */
export interface NativeConfig {
  readonly quant_method: 'cherryq';
  readonly format_version: 1;
  readonly method: Scheme['method'];
  readonly bits: Scheme['bits'];
  /** -1: the whole row. */
  readonly group_size: number;
  /** 0 where the method keeps no cherries. */
  readonly cherry_fraction: number;
  readonly levels: LevelKind;
  /** Whether groups keep their columns, and cherries their slots in them. */
  readonly aligned_groups: boolean;
  readonly cherry_mode: Scheme['cherryMode'];
  /** Whether each column has a scale of its own. */
  readonly column_scales: boolean;
}

const levelKinds: readonly LevelKind[] = ['midRise', 'symmetric', 'asymmetric'];

export function nativeConfig(scheme: Scheme, keepsCherries: boolean): NativeConfig {
  return {
    quant_method: 'cherryq',
    format_version: 1,
    method: scheme.method,
    bits: scheme.bits,
    group_size: scheme.groupSize === 'row' ? -1 : scheme.groupSize,
    cherry_fraction: keepsCherries ? scheme.cherryFraction : 0,
    levels: levelsFor(scheme),
    aligned_groups: scheme.groups === 'aligned',
    cherry_mode: scheme.cherryMode,
    column_scales: scheme.columnScales === 'searched',
  };
}

/** Rounding to nearest has zero points wherever it is published (Frantar et al. 2023, Shao et al. 2024). */
function levelsFor({ method, bits, quantizer }: Scheme): LevelKind {
  if (quantizer !== 'published') return quantizer;
  return method === 'rtn' ? 'asymmetric' : publishedLevels(bits);
}

/** @throws InputError naming the field of a `quantization_config` that this version does not read */
export function parseNativeConfig(value: unknown): NativeConfig {
  const config = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const check = (field: string, fine: boolean, allowed: string): void => {
    if (fine) return;
    const received = JSON.stringify(config[field]) ?? 'missing';
    const message = `config.json: quantization_config.${field} is ${received}; this version reads ${allowed}.`;
    throw new InputError('bad_config', message, `quantization_config.${field}`);
  };
  check('format_version', config.format_version === 1, '1');
  check('bits', [2, 3, 4, 8].includes(config.bits as number), '2, 3, 4 or 8');
  const groupSize = config.group_size;
  check(
    'group_size',
    Number.isInteger(groupSize) && ((groupSize as number) > 0 || groupSize === -1),
    'a positive whole number, or -1 for the row',
  );
  const fraction = config.cherry_fraction;
  check(
    'cherry_fraction',
    typeof fraction === 'number' && fraction >= 0 && fraction <= 0.25,
    'a number from 0 to 0.25',
  );
  check('method', ['rtn', 'qat', 'cherryq'].includes(config.method as string), '"rtn", "qat" or "cherryq"');
  check('levels', levelKinds.includes(config.levels as LevelKind), levelKinds.map((kind) => `"${kind}"`).join(', '));
  check('aligned_groups', typeof config.aligned_groups === 'boolean', 'true or false');
  check('cherry_mode', ['row', 'column'].includes(config.cherry_mode as string), '"row" or "column"');
  check('column_scales', typeof config.column_scales === 'boolean', 'true or false');
  return config as unknown as NativeConfig;
}

export function gridOf(config: Pick<NativeConfig, 'bits' | 'group_size' | 'levels' | 'aligned_groups'>): Grid {
  return {
    bits: config.bits,
    groupSize: config.group_size === -1 ? Infinity : config.group_size,
    levels: config.levels,
    aligned: config.aligned_groups,
  };
}
