// Nextflow: a task per row of studies.csv (name,baseline,follow_up,lesions; one follow-up each, full paths).
//   nextflow run Resources/Examples/cohorts/main.nf --table studies.csv --results results
// Every task loads the model anew (some 5 s); `samv2 batch` does so once per worker.
params.table = 'studies.csv'
params.results = 'results'

process track {
    tag "${name}"
    publishDir "${params.results}/${name}", mode: 'copy'
    cpus 4
    // 5 and 137: out of memory, once more; another failure of one study is no reason to end the others.
    errorStrategy { task.exitStatus in [5, 137] && task.attempt < 2 ? 'retry' : 'ignore' }

    input:
    tuple val(name), path(baseline, stageAs: 'baseline/*'), path(follow_up, stageAs: 'follow_up/*'), path(lesions)

    output:
    tuple val(name), path('tracks.csv'), path('report.json')

    script:
    // 6: there is a result, and it says that it must not be trusted.
    """
    samv2 track --baseline '${baseline}' --follow-up '${follow_up}' --lesions '${lesions}' \\
        --output tracks.csv --report report.json --threads ${task.cpus} --quiet || [ \$? -eq 6 ]
    """
}

workflow {
    rows = channel.fromPath(params.table).splitCsv(header: true)
    track(rows.map { row -> tuple(row.name, file(row.baseline), file(row.follow_up), file(row.lesions)) })
}
