// What deploy/grafana/keyward.json must be: Grafana's own types, with the options of the panels that are used.
// The dashboard is put behind this as `export const dashboard: Checked = ...;` and given to the TypeScript compiler.
import type { AnnotationQuery, Dashboard, DataQuery, GraphFieldConfig, Panel, RowPanel } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { Options as TimeSeriesOptions } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the words of an enum, not its members.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
// Queries are of a data source's own type; Grafana's package has none of Prometheus's.
type Query = Plain<DataQuery> & {
  datasource: { type: "prometheus"; uid: "${datasource}" };
  expr: string;
  legendFormat?: string;
  editorMode?: "code" | "builder";
  instant?: boolean;
  range?: boolean;
};
type Shown<T extends string, O, C> = Omit<Plain<Panel<O, C>>, "type" | "options" | "targets"> & {
  type: T;
  title: string;
  description: string;
  options: Partial<Plain<O>>;
  targets: Query[];
};
type Note = Plain<Omit<AnnotationQuery, "target">> & {
  target: Query;
  titleFormat?: string;
  textFormat?: string;
  useValueForTime?: boolean;
};
type Checked = Omit<Plain<Dashboard>, "id" | "annotations" | "panels"> & {
  id: null;
  annotations: { list: Note[] };
  panels: (Shown<"stat", StatOptions, Record<never, never>> | Shown<"timeseries", TimeSeriesOptions, GraphFieldConfig> | Plain<RowPanel>)[];
};
